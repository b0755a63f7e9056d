//! `kubewasm module ls`

use std::io;

use indicatif::{HumanBytes, HumanDuration};
use jiff::Timestamp;

use super::{
    ModuleSession,
    shapes::{ListShape, UseShape},
    short,
};

pub(crate) fn run(session: &ModuleSession) -> anyhow::Result<()> {
    let shape = ListShape { images: session.store.uses()?.iter().map(UseShape::from).collect() };
    let now = Timestamp::now();
    session.say(&shape, |out| table(out, &shape, now))
}

fn table(out: &mut dyn io::Write, list: &ListShape, now: Timestamp) -> io::Result<()> {
    let header = ["IMAGE", "DIGEST", "SIZE", "LAST USED"].map(str::to_owned);
    let rows = list.images.iter().map(|used| {
        let last = match used.last_used_at.map(|then| now.duration_since(then).unsigned_abs()) {
            _ if used.in_use => "in use".to_owned(),
            Some(ago) => format!("{} ago", HumanDuration(ago)),
            None => "unknown".to_owned(),
        };
        let image = &used.image;
        [image.reference.clone(), short(&image.digest), HumanBytes(image.size_bytes).to_string(), last]
    });
    let rows: Vec<_> = std::iter::once(header).chain(rows).collect();
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let (image, digest, size) = (width(0), width(1), width(2));
    for [name, id, bytes, used] in &rows {
        writeln!(out, "{name:image$}  {id:digest$}  {bytes:size$}  {used}")?;
    }
    Ok(())
}
