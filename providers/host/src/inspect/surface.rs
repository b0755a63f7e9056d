//! What a module imports and exports, whether or not it can be run here: for who pushes it, or wants to know.

use serde::{Deserialize, Serialize};
use wasmparser::{Parser, Payload};

use super::{InspectError, Names, not_wasm, top_level};

/// Whether a file is a core module or a component.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModuleForm {
    /// A core module.
    Core,
    /// A component.
    Component,
}

/// The outside of a module. Names are the module's own, cut to what is fit to be shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Surface {
    /// What it is.
    pub form: ModuleForm,
    /// What it wants of its host, each once, as in [`super::Facts`].
    pub imports: Vec<String>,
    /// What it offers, each once, as in [`super::Facts`].
    pub exports: Vec<String>,
}

/// Reads what `bytes` import and export.
///
/// # Errors
/// [`InspectError`] when they are no WebAssembly, or damaged.
pub fn surface(bytes: &[u8]) -> Result<Surface, InspectError> {
    let form = if Parser::is_core_wasm(bytes) {
        ModuleForm::Core
    } else if Parser::is_component(bytes) {
        ModuleForm::Component
    } else {
        return Err(not_wasm(bytes));
    };
    let (mut imports, mut exports) = (Names::default(), Names::default());
    top_level(bytes, |payload| {
        match payload {
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    imports.add(import?.module);
                }
            }
            Payload::ExportSection(section) => {
                for export in section {
                    exports.add(export?.name);
                }
            }
            Payload::ComponentImportSection(section) => {
                for import in section {
                    imports.add(import?.name.name);
                }
            }
            Payload::ComponentExportSection(section) => {
                for export in section {
                    exports.add(export?.name.name);
                }
            }
            _ => {}
        }
        Ok(())
    })?;
    Ok(Surface { form, imports: imports.0, exports: exports.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_run_here_has_a_surface_too() {
        let library = wat::parse_str(r#"(module (import "env" "f" (func)) (func (export "g")))"#).unwrap();
        let expected =
            Surface { form: ModuleForm::Core, imports: vec!["env".into()], exports: vec!["g".into()] };
        assert_eq!(surface(&library), Ok(expected));
        let service = wat::parse_str(
            r#"(component (import "wasi:cli/stdin@0.2.0" (instance)) (core module (import "x" "y" (func)))
                (instance $i) (export "wasi:http/incoming-handler@0.2.0" (instance $i)))"#,
        )
        .unwrap();
        let expected = Surface {
            form: ModuleForm::Component,
            imports: vec!["wasi:cli/stdin@0.2.0".into()],
            exports: vec!["wasi:http/incoming-handler@0.2.0".into()],
        };
        assert_eq!(surface(&service), Ok(expected), "what is nested in it is not its own");
        assert_eq!(surface(b""), Err(InspectError::Empty));
        assert!(matches!(surface(b"text"), Err(InspectError::NotWasm { .. })));
    }
}
