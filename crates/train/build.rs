//! Packs the embedded novel.

use std::path::Path;
use std::{env, fs};

const NOVEL: &str = "data/moby-dick.txt";

fn main() {
    println!("cargo::rerun-if-changed={NOVEL}");
    let text = fs::read(NOVEL).expect("the novel is part of the crate");
    let packed = miniz_oxide::deflate::compress_to_vec(&text, 9);
    let folder = env::var_os("OUT_DIR").expect("cargo names the folder");
    fs::write(Path::new(&folder).join("moby-dick.deflate"), packed).expect("the folder can be written");
}
