//! Sets the switch under which the crate takes loom's locks and atomics.

fn main() {
    println!("cargo::rustc-cfg=buttress_loom");
}
