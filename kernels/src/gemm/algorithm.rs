//! Which of cuBLASLt's algorithms runs a product, pinned: the library's own 64 bytes, good for the same version of it, and
//! their settings in words. It may not know products or how fast anything is.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::fmt;

use cudarc::cublaslt::sys;
use serde::{Deserialize, Serialize};

/// An algorithm with its settings, as the library keeps it; written as 128 hex digits. NVIDIA: it "can be trivially
/// serialized and later restored for use with the same version of cuBLAS library".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Algorithm {
    words: [u64; 8],
}

/// A setting of an algorithm that a search may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Setting {
    /// Rows and columns of a block's part of the result.
    Tile,
    /// Blocks that share what they load.
    Cluster,
    /// In which order blocks take their parts.
    Swizzle,
    /// Parts of a sum that are on their way.
    Stages,
}

impl Setting {
    /// All, in the order in which they are tried.
    pub(super) const ALL: [Self; 4] = [Self::Tile, Self::Cluster, Self::Swizzle, Self::Stages];
}

/// The last cluster of up to 16 blocks in `cublasLtClusterShape_t` whose sides are powers of two.
const LAST_CLUSTER: u32 = 16;
/// Room for what the library names for one setting: it has about 600 tiles.
const MOST_VALUES: usize = 2048;

impl Algorithm {
    pub(super) const fn of(raw: &sys::cublasLtMatmulAlgo_t) -> Self {
        Self { words: raw.data }
    }

    pub(super) const fn raw(self) -> sys::cublasLtMatmulAlgo_t {
        sys::cublasLtMatmulAlgo_t { data: self.words }
    }

    /// Its settings in words. The library must have been loaded.
    pub(super) fn settings(self) -> String {
        use sys::cublasLtMatmulAlgoConfigAttributes_t as Attribute;
        let wide = |attribute| self.setting(attribute, 0_u32);
        let narrow = |attribute| self.setting(attribute, 0_u16).map(u32::from);
        let settings = [
            ("algorithm", wide(Attribute::CUBLASLT_ALGO_CONFIG_ID)),
            ("tile", wide(Attribute::CUBLASLT_ALGO_CONFIG_TILE_ID)),
            ("stages", wide(Attribute::CUBLASLT_ALGO_CONFIG_STAGES_ID)),
            ("split-k", wide(Attribute::CUBLASLT_ALGO_CONFIG_SPLITK_NUM)),
            ("reduction", wide(Attribute::CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME)),
            ("swizzle", wide(Attribute::CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING)),
            ("option", wide(Attribute::CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION)),
            ("inner", narrow(Attribute::CUBLASLT_ALGO_CONFIG_INNER_SHAPE_ID)),
            ("cluster", narrow(Attribute::CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID)),
        ];
        let words = settings.into_iter().filter_map(|(name, value)| Some(format!("{name} {}", value?)));
        words.collect::<Vec<_>>().join(", ")
    }

    /// The same algorithm with every other value of one setting that the library names for it. Whether it takes them together with the
    /// others is only known when it is asked.
    pub(super) fn varied(self, setting: Setting) -> Vec<Self> {
        use sys::cublasLtMatmulAlgoCapAttributes_t as Capability;
        use sys::cublasLtMatmulAlgoConfigAttributes_t as Attribute;
        let values: Vec<u32> = match setting {
            Setting::Tile => self.values(Capability::CUBLASLT_ALGO_CAP_TILE_IDS),
            Setting::Stages => self.values(Capability::CUBLASLT_ALGO_CAP_STAGES_IDS),
            Setting::Cluster => (0..=LAST_CLUSTER).collect(),
            Setting::Swizzle => vec![0, 1],
        };
        let with = |value: u32| match setting {
            Setting::Tile => self.with(Attribute::CUBLASLT_ALGO_CONFIG_TILE_ID, value),
            Setting::Stages => self.with(Attribute::CUBLASLT_ALGO_CONFIG_STAGES_ID, value),
            Setting::Cluster => {
                self.with(Attribute::CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID, u16::try_from(value).unwrap_or_default())
            }
            Setting::Swizzle => self.with(Attribute::CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING, value),
        };
        values.into_iter().filter_map(with).filter(|other| *other != self).collect()
    }

    /// What the library names for one setting, empty where it names nothing.
    fn values(self, capability: sys::cublasLtMatmulAlgoCapAttributes_t) -> Vec<u32> {
        let (raw, mut values, mut written) = (self.raw(), vec![0_u32; MOST_VALUES], 0);
        // SAFETY: the library reads the live 64 bytes and writes at most as many bytes as there is room for.
        let status = unsafe {
            sys::cublasLtMatmulAlgoCapGetAttribute(
                &raw const raw,
                capability,
                values.as_mut_ptr().cast(),
                4 * MOST_VALUES,
                &raw mut written,
            )
        };
        let known = if status == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS { written / 4 } else { 0 };
        values.truncate(known);
        values
    }

    /// The same with one setting changed, `None` where the library refuses it.
    fn with<T: Copy>(self, attribute: sys::cublasLtMatmulAlgoConfigAttributes_t, value: T) -> Option<Self> {
        let mut raw = self.raw();
        let from: *const c_void = (&raw const value).cast();
        // SAFETY: the library reads a live value of the attribute's type and changes the live 64 bytes.
        let status =
            unsafe { sys::cublasLtMatmulAlgoConfigSetAttribute(&raw mut raw, attribute, from, size_of::<T>()) };
        (status == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS).then(|| Self::of(&raw))
    }

    /// One setting, `None` where this version knows none of that kind. `T` is the type that the attribute has.
    fn setting<T: Copy>(self, attribute: sys::cublasLtMatmulAlgoConfigAttributes_t, zero: T) -> Option<T> {
        let (raw, mut value, mut written) = (self.raw(), zero, 0);
        let to: *mut c_void = (&raw mut value).cast();
        // SAFETY: the library reads the live 64 bytes and writes at most the size of `T` to the live value.
        let status = unsafe {
            sys::cublasLtMatmulAlgoConfigGetAttribute(&raw const raw, attribute, to, size_of::<T>(), &raw mut written)
        };
        (status == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS).then_some(value)
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.words.iter().try_for_each(|word| write!(f, "{word:016x}"))
    }
}

impl From<Algorithm> for String {
    fn from(algorithm: Algorithm) -> Self {
        algorithm.to_string()
    }
}

impl TryFrom<String> for Algorithm {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || format!("an algorithm is 128 hex digits, not `{text}`");
        if text.len() != 128 || !text.is_ascii() {
            return Err(wrong());
        }
        let mut words = [0; 8];
        for (at, word) in words.iter_mut().enumerate() {
            *word = u64::from_str_radix(&text[16 * at..16 * (at + 1)], 16).map_err(|_| wrong())?;
        }
        Ok(Self { words })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_survive_their_text() {
        let words = [0x0123_4567_89ab_cdef, 1, u64::MAX, 0, 5, 6, 7, 1 << 63];
        let algorithm = Algorithm { words };
        let text = String::from(algorithm);
        assert!(text.starts_with("0123456789abcdef0000000000000001ffffffffffffffff"), "{text}");
        assert_eq!(Algorithm::try_from(text), Ok(algorithm));
        for wrong in ["", "12", &"g".repeat(128), &"é".repeat(64)] {
            assert!(Algorithm::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }
}
