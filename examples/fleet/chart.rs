//! Draws the superfluous calls of both fleets.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use tower_buttress::error::BoxError;

use super::report::Figures;

const WIDTH: u32 = 860;
const INK: RGBColor = RGBColor(0x22, 0x2b, 0x36);
const FAINT: RGBColor = RGBColor(0x7a, 0x86, 0x94);
const ALONE: RGBColor = RGBColor(0xf0, 0xa2, 0x3b);
const SHARED: RGBColor = RGBColor(0x2f, 0x6f, 0x8a);

const LEFT: i32 = 300;
const RIGHT: i32 = 740;
const TOP: i32 = 92;
const STEP: i32 = 58;
const THICK: i32 = 18;
/// The space below the last bar.
const BOTTOM: i32 = 24;

/// Draws two bars per figure, scaled to the longer one.
pub(crate) fn write(path: &Path, alone: &Figures, shared: &Figures) -> Result<(), BoxError> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let rows = [
        ("calls for a double click", alone.per_click, shared.per_click),
        ("429s after the first", alone.limited.into(), shared.limited.into()),
        ("calls into a dead provider", alone.dead.into(), shared.dead.into()),
        ("probes while it is dead", alone.probes.into(), shared.probes.into()),
        ("probes when it is back", alone.recovery_probes.into(), shared.recovery_probes.into()),
    ];
    let height = TOP + BOTTOM + STEP * i32::try_from(rows.len())?;
    let area = SVGBackend::new(path, (WIDTH, u32::try_from(height)?)).into_drawing_area();
    area.fill(&WHITE)?;
    text(&area, "What eight gateways ask of one provider", (24, 22), 20, &INK, HPos::Left)?;
    for (x, color, name) in [(24, ALONE, "each on its own"), (229, SHARED, "sharing a Redis")] {
        area.draw(&Rectangle::new([(x, 54), (x + 12, 66)], color.filled()))?;
        text(&area, name, (x + 18, 60), 13, &INK, HPos::Left)?;
    }
    for (nth, (name, alone, shared)) in (0..).zip(rows) {
        let top = TOP + nth * STEP;
        text(&area, name, (LEFT - 12, top + THICK), 15, &INK, HPos::Right)?;
        let most = f64::max(alone, shared).max(f64::MIN_POSITIVE);
        for (nth, value, color) in [(0, alone, ALONE), (1, shared, SHARED)] {
            // Fits, because no bar is longer than the longest.
            #[allow(clippy::cast_possible_truncation)]
            let end = LEFT + (value / most * f64::from(RIGHT - LEFT)).round() as i32;
            let top = top + nth * THICK;
            area.draw(&Rectangle::new([(LEFT, top), (end, top + THICK)], color.filled()))?;
            let figure = if value.fract() == 0.0 { format!("{value}") } else { format!("{value:.2}") };
            text(&area, &figure, (end + 10, top + THICK / 2), 14, &INK, HPos::Left)?;
        }
    }
    let about = "The length of a bar is relative to the longer one of its row; cargo run --release --example fleet";
    text(&area, about, (24, height - 20), 12, &FAINT, HPos::Left)?;
    area.present()?;
    Ok(())
}

fn text(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    text: &str,
    at: (i32, i32),
    size: i32,
    color: &RGBColor,
    anchor: HPos,
) -> Result<(), BoxError> {
    let style = ("sans-serif", size).into_font().color(color).pos(Pos::new(anchor, VPos::Center));
    area.draw(&Text::new(text.to_owned(), at, style))?;
    Ok(())
}
