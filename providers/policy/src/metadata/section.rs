//! Where a module keeps its metadata.

use std::ops::Range;

use wasm_encoder::{CustomSection, Section as _};
use wasmparser::{Parser, Payload};

use super::Metadata;

/// The name of the custom section.
pub const SECTION: &str = "io.kubewarden.metadata";

/// Metadata that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SectionError {
    /// The file is no module.
    #[error("it is no module of WebAssembly: {0}")]
    Module(#[from] wasmparser::BinaryReaderError),
    /// The section is not what it should be.
    #[error("its section {SECTION} is no metadata of a policy: {0}")]
    Json(#[from] serde_json::Error),
}

/// Reads the metadata of a module or a component, if it has any. The last section of the name counts, as that of whoever annotated
/// it last.
///
/// # Errors
/// [`SectionError`].
pub fn read(module: &[u8]) -> Result<Option<Metadata>, SectionError> {
    let found = find(module)?;
    let last = found.last().map(|section| serde_json::from_slice(section.data));
    Ok(last.transpose()?)
}

/// The module with this metadata, in place of any that it had.
///
/// # Errors
/// [`SectionError::Module`] when it is none; [`SectionError::Json`] when the metadata cannot be written.
pub fn write(module: &[u8], metadata: &Metadata) -> Result<Vec<u8>, SectionError> {
    let json = serde_json::to_vec(metadata)?;
    let mut written = Vec::with_capacity(module.len() + json.len() + SECTION.len() + 16);
    let mut from = 0;
    for section in find(module)? {
        written.extend_from_slice(module.get(from..section.whole.start).unwrap_or_default());
        from = section.whole.end;
    }
    written.extend_from_slice(module.get(from..).unwrap_or_default());
    let section = CustomSection { name: SECTION.into(), data: json.into() };
    // It is the same in modules and in components.
    section.append_to(&mut written);
    Ok(written)
}

/// A section of metadata, and where all of it is in the file.
struct Found<'a> {
    data: &'a [u8],
    whole: Range<usize>,
}

/// The sections of metadata of the module itself, and not of one within it.
fn find(module: &[u8]) -> Result<Vec<Found<'_>>, SectionError> {
    let mut found = Vec::new();
    let mut within = 0_usize;
    // A section begins where the one before it ends: its own range does not hold its head.
    let mut end = 0;
    for payload in Parser::new(0).parse_all(module) {
        let payload = payload?;
        if let Payload::End(_) = payload {
            within = within.saturating_sub(1);
        }
        if within > 0 {
            if let Payload::ModuleSection { .. } | Payload::ComponentSection { .. } = payload {
                within += 1;
            }
            continue;
        }
        match &payload {
            Payload::Version { range, .. } => end = range.end,
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => within = 1,
            Payload::CustomSection(section) if section.name() == SECTION => {
                found.push(Found { data: section.data(), whole: end..section.range().end });
            }
            _ => {}
        }
        if let Some((_, range)) = payload.as_section() {
            end = range.end;
        }
    }
    Ok(found)
}
