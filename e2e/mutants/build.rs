//! Sets `cfg(mutants)`, for this crate alone.

fn main() {
    println!("cargo::rustc-cfg=mutants");
    println!("cargo::rerun-if-changed=build.rs");
}
