//! A table that a terminal can show.

use crate::measure::Cost;

/// Prints a heading.
pub fn heading(title: &str) {
    println!("\n{title}\n{:<52} {:>9} {:>8} {:>8}  goal", "", "ns", "allocs", "instr");
}

/// Prints the bare cost, over which the rows that follow are counted.
pub fn bare(name: &str, cost: Cost) {
    row(name, cost.nanos, cost.allocations, cost.instructions, "");
}

/// Prints a cost over the bare one. `goal`: the most instructions that it may have.
pub fn over(name: &str, cost: Cost, bare: Cost, goal: Option<f64>) {
    let instructions = cost.instructions.zip(bare.instructions).map(|(cost, bare)| cost - bare);
    let verdict = match (goal, instructions) {
        (Some(goal), Some(found)) => format!("+{goal}: {}", if found <= goal { "met" } else { "missed" }),
        (Some(goal), None) => format!("+{goal}: not measured"),
        (None, _) => String::new(),
    };
    row(&format!("  + {name}"), cost.nanos - bare.nanos, cost.allocations - bare.allocations, instructions, &verdict);
}

fn row(name: &str, nanos: f64, allocations: f64, instructions: Option<f64>, goal: &str) {
    let instructions = instructions.map_or("-".to_owned(), |count| format!("{count:.0}"));
    println!("{name:<52} {nanos:>9.1} {allocations:>8.2} {instructions:>8}  {goal}");
}
