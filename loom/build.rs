//! Sets the cfg that makes the crate use loom's locks and atomics.

fn main() {
    println!("cargo::rustc-cfg=buttress_loom");
}
