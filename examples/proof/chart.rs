//! Draws the results of the callers.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use tower_buttress::error::BoxError;

use super::report::Row;

const WIDTH: u32 = 860;
const INK: RGBColor = RGBColor(0x22, 0x2b, 0x36);
const FAINT: RGBColor = RGBColor(0x7a, 0x86, 0x94);
const FAILED: RGBColor = RGBColor(0xd6, 0x45, 0x41);
const CUT: RGBColor = RGBColor(0xf0, 0xa2, 0x3b);
const WHOLE: RGBColor = RGBColor(0x6b, 0x2f, 0x8a);

const LEFT: i32 = 170;
const RIGHT: i32 = 640;
const TOP: i32 = 92;
const STEP: i32 = 46;
const THICK: i32 = 24;
/// The space below the last bar.
const BOTTOM: i32 = 24;

/// Draws a bar per row: failed, cut, taken for whole.
pub(crate) fn write(path: &Path, rows: &[Row]) -> Result<(), BoxError> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let height = (TOP + BOTTOM).saturating_add(STEP.saturating_mul(i32::try_from(rows.len())?));
    let area = SVGBackend::new(path, (WIDTH, u32::try_from(height)?)).into_drawing_area();
    area.fill(&WHITE)?;
    let bad = |row: &Row| row.percent(row.failed + row.cut + row.taken_for_whole);
    let most = rows.iter().map(bad).fold(1.0, f64::max);
    // Fits, because no bar is longer than the longest.
    #[allow(clippy::cast_possible_truncation)]
    let width = |percent: f64| (percent / most * f64::from(RIGHT - LEFT)).round() as i32;

    text(&area, "Calls that did not come back whole", (24, 22), 20, &INK, HPos::Left)?;
    let mut x = 24;
    for (color, name) in [
        (FAILED, "failed before the first data"),
        (CUT, "cut later, with an error"),
        (WHOLE, "truncated, taken for whole"),
    ] {
        area.draw(&Rectangle::new([(x, 54), (x + 12, 66)], color.filled()))?;
        text(&area, name, (x + 18, 60), 13, &INK, HPos::Left)?;
        x += 205;
    }
    for (nth, row) in (0..).zip(rows) {
        let top = TOP + nth * STEP;
        let middle = top + THICK / 2;
        text(&area, row.contestant.name(), (LEFT - 12, middle), 15, &INK, HPos::Right)?;
        let mut x = LEFT;
        for (count, color) in [(row.failed, FAILED), (row.cut, CUT), (row.taken_for_whole, WHOLE)] {
            let end = x + width(row.percent(count));
            area.draw(&Rectangle::new([(x, top), (end, top + THICK)], color.filled()))?;
            x = end;
        }
        let figures = format!("{:.2} % failed, {:.2} % cut", row.percent(row.failed), row.percent(row.cut));
        text(&area, &figures, (x + 10, middle), 14, &INK, HPos::Left)?;
    }
    let requests = rows.first().map_or(0, |row| row.requests);
    let about = format!("{requests} requests each to the same faulty provider; cargo run --release --example proof");
    text(&area, &about, (24, height - 20), 12, &FAINT, HPos::Left)?;
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
