//! The cost of finding the JSON in a text, by form and size: the time per byte must not grow with the text.
//!
//! ```sh
//! cargo bench -p tower-buttress-benches --features schema --bench extract
//! ```

use std::hint::black_box;
use std::time::{Duration, Instant};

use tower_buttress::proto::extract_json::{Wanted, extract};

/// Builds a text of about this many bytes, and says whether it contains a value.
type Form = (&'static str, fn(usize) -> String, bool);

const FORMS: &[Form] = &[
    ("JSON alone", |bytes| json(bytes, ""), true),
    ("in a sentence", |bytes| format!("Here it is: {} That is all.", json(bytes, "")), true),
    ("in a block", |bytes| format!("Here it is:\n```json\n{}\n```\n", json(bytes, "")), true),
    ("trailing commas", |bytes| json(bytes, ","), true),
    ("two values", |bytes| format!("{}{}", json(bytes / 2, ""), json(bytes / 2, "")), false),
    ("cut", |bytes| json(bytes, "").trim_end_matches(']').to_owned(), false),
    ("open brackets", |bytes| "{\"".repeat(bytes / 2), false),
];
const SIZES: [usize; 3] = [1024, 32 * 1024, 1000 * 1024];
/// The time for each measurement.
const TIME: Duration = Duration::from_millis(200);

fn main() {
    println!("nanoseconds for each byte\n\n{:<16} {:>8} {:>8} {:>8}", "text", "1 KiB", "32 KiB", "1 MiB");
    for (name, form, is_found) in FORMS {
        let times = SIZES.map(|bytes| {
            let text = form(bytes);
            assert_eq!(extract(&text, Wanted::Array).is_some(), *is_found, "{name}, {bytes} bytes");
            let (start, mut runs) = (Instant::now(), 0_u32);
            while start.elapsed() < TIME {
                black_box(extract(black_box(&text), Wanted::Array));
                runs += 1;
            }
            start.elapsed().as_nanos() as f64 / f64::from(runs) / text.len() as f64
        });
        println!("{name:<16} {:>8.2} {:>8.2} {:>8.2}", times[0], times[1], times[2]);
    }
}

/// An array of objects, each followed by this.
fn json(bytes: usize, trailing: &str) -> String {
    const ITEM: &str = r#"{"name":"a \"quoted\" name","tags":["x","y"],"count":42}"#;
    let items = vec![ITEM; (bytes / (ITEM.len() + 1)).max(1)].join(",");
    format!("[{items}{trailing}]")
}
