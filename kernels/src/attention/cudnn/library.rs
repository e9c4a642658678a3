//! cuDNN as a library opened at run time: its functions, its version, the versions that are refused and why.
//!
//! It may not know attention. Enumerations cross as `i32`, since a newer cuDNN may return values that this code never heard
//! of. cuDNN is never unloaded: it keeps threads and device memory of its own.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_void};
use std::fmt;
use std::path::{Path, PathBuf};

use libloading::os::unix::{Library as UnixLibrary, RTLD_LOCAL, RTLD_NOW};

use super::CudnnError;

/// What the loader calls cuDNN 9.
pub const FILE_NAME: &str = "libcudnn.so.9";

/// A cuDNN version, as its library says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// 9 in 9.19.0.
    pub major: usize,
    /// 19 in 9.19.0.
    pub minor: usize,
    /// 0 in 9.19.0.
    pub patch: usize,
}

impl Version {
    const fn new(major: usize, minor: usize, patch: usize) -> Self {
        Self { major, minor, patch }
    }

    /// From `cudnnGetVersion`: 91900 is 9.19.0 (from cuDNN 9 on).
    const fn of_number(number: usize) -> Self {
        Self::new(number / 10_000, number / 100 % 100, number % 100)
    }

    /// Why attention is never run on this version.
    fn refusal(self) -> Option<&'static str> {
        // Sources: the guards in cudnn-frontend's scaled_dot_product_flash_attention.h.
        if self < Self::new(9, 10, 0) {
            Some("is older than 9.10.2, from which on its attention is known to be right")
        } else if self < Self::new(9, 10, 2) {
            Some("computes wrong bf16 gradients of attention (9.10.0 and 9.10.1)")
        } else {
            None
        }
    }

    /// Why attention over sequences of this length is not run on this version.
    pub(super) fn refusal_of_length(self, seq: usize) -> Option<&'static str> {
        let broken = self < Self::new(9, 15, 1) && !seq.is_multiple_of(128);
        broken.then_some(
            "makes illegal accesses in replayed graphs where a sequence is no multiple of 128 long (before 9.15.1)",
        )
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// A descriptor or a handle, as cuDNN hands it out.
pub(super) type Raw = *mut c_void;

type Status = i32;

macro_rules! functions {
    ($($field:ident: $symbol:literal ($($arg:ty),*) -> $ret:ty,)*) => {
        /// The functions in use; they live as long as the library, which stays mapped.
        pub(super) struct Functions {
            $(pub(super) $field: unsafe extern "C" fn($($arg),*) -> $ret,)*
        }

        impl Functions {
            fn of(library: &UnixLibrary) -> Result<Self, &'static str> {
                Ok(Self {
                    // SAFETY: the signatures are those of cudnn_graph.h, the same from 9.0 on.
                    $($field: *unsafe { library.get(concat!($symbol, "\0").as_bytes()) }.map_err(|_| $symbol)?,)*
                })
            }
        }
    };
}

functions! {
    version: "cudnnGetVersion"() -> usize,
    error_name: "cudnnGetErrorString"(Status) -> *const c_char,
    last_error: "cudnnGetLastErrorString"(*mut c_char, usize) -> (),
    create: "cudnnCreate"(*mut Raw) -> Status,
    destroy: "cudnnDestroy"(Raw) -> Status,
    set_stream: "cudnnSetStream"(Raw, *mut c_void) -> Status,
    create_descriptor: "cudnnBackendCreateDescriptor"(i32, *mut Raw) -> Status,
    destroy_descriptor: "cudnnBackendDestroyDescriptor"(Raw) -> Status,
    finalize: "cudnnBackendFinalize"(Raw) -> Status,
    set_attribute: "cudnnBackendSetAttribute"(Raw, i32, i32, i64, *const c_void) -> Status,
    get_attribute: "cudnnBackendGetAttribute"(Raw, i32, i32, i64, *mut i64, *mut c_void) -> Status,
    execute: "cudnnBackendExecute"(Raw, Raw, Raw) -> Status,
}

/// cuDNN, loaded.
pub struct Library {
    pub(super) functions: Functions,
    version: Version,
    path: PathBuf,
}

impl fmt::Debug for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Library").field("version", &self.version).field("path", &self.path).finish_non_exhaustive()
    }
}

impl Library {
    /// Loads the first of the files that is a cuDNN fit for attention. Paths are as the loader takes them: a bare
    /// [`FILE_NAME`] is looked for where the loader looks. Opens no device.
    ///
    /// # Errors
    /// [`CudnnError::Missing`] if none loads, else what is wrong with the first that did.
    pub fn load(candidates: &[PathBuf]) -> Result<Self, CudnnError> {
        let mut refused = None;
        for path in candidates {
            match Self::open(path) {
                Ok(library) => return Ok(library),
                Err(CudnnError::Missing { .. }) => {}
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        let searched = || candidates.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
        Err(refused.unwrap_or_else(|| CudnnError::Missing { searched: searched() }))
    }

    fn open(path: &Path) -> Result<Self, CudnnError> {
        let missing = |_| CudnnError::Missing { searched: path.display().to_string() };
        // SAFETY: opening a library runs its initialisers; cuDNN is made to be opened this way.
        let library = unsafe { UnixLibrary::open(Some(path), RTLD_NOW | RTLD_LOCAL) }.map_err(missing)?;
        let functions =
            Functions::of(&library).map_err(|symbol| CudnnError::NotCudnn { path: path.to_path_buf(), symbol })?;
        // SAFETY: takes nothing, returns a number.
        let version = Version::of_number(unsafe { (functions.version)() });
        if let Some(reason) = version.refusal() {
            return Err(CudnnError::Refused { version, path: path.to_path_buf(), reason });
        }
        std::mem::forget(library);
        Ok(Self { functions, version, path: path.to_path_buf() })
    }

    /// Its version.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// The path it was loaded by. What the loader made of it stands in `/proc/self/maps`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Turns a status into an error with cuDNN's own words for it.
    pub(super) fn checked(&self, call: &'static str, status: Status) -> Result<(), CudnnError> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: the name is a static string, for unknown statuses too.
        let name = unsafe {
            let name = (self.functions.error_name)(status);
            if name.is_null() { String::new() } else { CStr::from_ptr(name).to_string_lossy().into_owned() }
        };
        let mut text = [0_u8; 1024];
        // SAFETY: cuDNN writes at most the length it is told, with a terminating zero.
        unsafe { (self.functions.last_error)(text.as_mut_ptr().cast(), text.len()) };
        let detail = CStr::from_bytes_until_nul(&text).map(|text| text.to_string_lossy().trim().to_owned());
        Err(CudnnError::Call { call, status, name, detail: detail.unwrap_or_default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_read_and_refuse() {
        let cases = [
            (90_501, "9.5.1", 128, Some("is older than 9.10.2")),
            (91_000, "9.10.0", 128, Some("computes wrong bf16 gradients")),
            (91_001, "9.10.1", 128, Some("computes wrong bf16 gradients")),
            (91_002, "9.10.2", 128, None),
            (91_002, "9.10.2", 1000, Some("makes illegal accesses")),
            // The fault of 9.14.0 is in sliding windows, which attention here has none of.
            (91_400, "9.14.0", 2048, None),
            (91_500, "9.15.0", 65, Some("makes illegal accesses")),
            (91_501, "9.15.1", 65, None),
            (91_900, "9.19.0", 1, None),
        ];
        for (number, text, seq, reason) in cases {
            let version = Version::of_number(number);
            assert_eq!(version.to_string(), text);
            let found = version.refusal().or_else(|| version.refusal_of_length(seq));
            assert_eq!(found.is_some(), reason.is_some(), "{text} at {seq}: {found:?}");
            assert!(found.unwrap_or_default().starts_with(reason.unwrap_or_default()), "{text} at {seq}: {found:?}");
        }
    }

    #[test]
    fn a_missing_library_says_where_it_was_looked_for_and_what_to_do() {
        let found = Library::load(&["/nowhere/libcudnn.so.9".into(), "libcudnn-of-nobody.so.9".into()]);
        assert_eq!(
            found.unwrap_err().to_string(),
            "libcudnn.so.9 is not found: `pip install nvidia-cudnn-cu13` into the active Python, or install cuDNN 9 where the loader looks; searched /nowhere/libcudnn.so.9, libcudnn-of-nobody.so.9"
        );
    }

    #[test]
    fn another_library_is_told_from_cudnn() {
        let found = Library::load(&["libc.so.6".into()]).unwrap_err();
        assert_eq!(found.to_string(), "libc.so.6 is not cuDNN 9: it has no `cudnnGetVersion`");
    }
}
