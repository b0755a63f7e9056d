//! Carries the file of its first argument to that of its second, with the environment's `STAMP` at its end, lists the folder, waits a
//! little by the clock, and exits with its third.

use std::{
    env, fs, io,
    path::Path,
    process,
    time::{Duration, Instant},
};

fn carry(from: &str, to: &str) -> io::Result<()> {
    let stamp = env::var("STAMP").map_err(io::Error::other)?;
    let part = format!("{to}.part");
    fs::write(&part, fs::read_to_string(from)? + &stamp)?;
    fs::rename(&part, to)?;
    let folder = Path::new(to).parent().unwrap_or(Path::new("/"));
    let names = fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    println!("{} in {:?}", fs::read_to_string(to)?, names.collect::<io::Result<Vec<_>>>()?);
    Ok(())
}

fn main() {
    let args: Vec<String> = env::args().collect();
    let [_, from, to, code] = &*args else { panic!("three arguments are needed, not {args:?}") };
    if let Err(error) = carry(from, to) {
        eprintln!("{from}: {error}");
        process::exit(1);
    }
    let begun = Instant::now();
    std::thread::sleep(Duration::from_millis(20));
    assert!(begun.elapsed() >= Duration::from_millis(20), "the clock goes on");
    process::exit(code.parse().expect("a number"));
}
