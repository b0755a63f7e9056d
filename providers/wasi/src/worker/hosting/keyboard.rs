//! Where what callers type at a terminal becomes what its guest reads.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use kubewasm_host::{
    InputPipe,
    line_discipline::{LineDiscipline, Typed},
};

/// The keyboard of a terminal; all who type there type the same line.
#[derive(Debug)]
pub(super) struct Keyboard {
    line: Mutex<LineDiscipline>,
    pipe: Arc<InputPipe>,
}

impl Keyboard {
    pub(super) fn new(pipe: &Arc<InputPipe>) -> Self {
        Self { line: Mutex::default(), pipe: Arc::clone(pipe) }
    }

    /// Takes keys, and has them shown. True when one of them was Ctrl-C. Never waits, since that has to be seen whatever the
    /// guest does: what it has no room for is dropped, as a terminal of the kernel's does.
    pub(super) fn press(&self, keys: &[u8], show: impl Fn(Bytes)) -> bool {
        let come = self.line.lock().unwrap_or_else(PoisonError::into_inner).input(keys);
        let (mut is_interrupted, mut is_full) = (false, false);
        // Before the guest reads them: what it answers comes below them.
        if !come.echo.is_empty() {
            show(come.echo.into());
        }
        for typed in come.typed {
            let has_room = match typed {
                Typed::Text(text) => self.pipe.offer(text),
                Typed::End => self.pipe.offer_end(),
                Typed::Interrupt => {
                    is_interrupted = true;
                    true
                }
            };
            is_full |= !has_room;
        }
        if is_full {
            show(Bytes::from_static(b"\x07"));
        }
        is_interrupted
    }
}
