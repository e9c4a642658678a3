//! Datasheet peaks, in one table: dense figures only, each with its source, and the peak that a cell's own mix of dtypes has.
//!
//! Makers print figures with 2:4 sparsity first; half of them is what a training step can use. A chip that is not in the table
//! has no peak, and its cells no `mfu`: a guess would be a figure without provenance.

use stepwatch_model::Precision;
use stepwatch_model::config::StepConfig;
use stepwatch_model::count;
use stepwatch_record::machine::Machine;
use stepwatch_record::run::CellPeak;

use crate::scenario::{PlannedCell, Work};

/// One chip as its maker describes it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Chip {
    /// Its name as NVML says it.
    pub name: &'static str,
    /// Its architecture.
    pub architecture: Architecture,
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// The clock that the maker's tensor-core figures stand at, Hz.
    pub tensor_clock_hz: f64,
    /// bf16 with fp32 sums on tensor cores, dense, FLOP/s.
    pub bf16: f64,
    /// FP8 with fp32 sums on tensor cores, dense, FLOP/s; none before Ada.
    pub fp8: Option<f64>,
    /// fp32 outside the tensor cores (no TF32), FLOP/s.
    pub fp32: f64,
    /// Memory bandwidth, bytes a second.
    pub bytes_per_second: f64,
    /// Where the figures stand.
    pub source: &'static str,
}

/// Architectures with different tensor cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// Compute capability 8.0.
    Ampere,
    /// Compute capability 8.9, cards for data centres.
    Ada,
    /// Compute capability 8.9, cards for displays: their tensor cores sum in fp32 at half the rate.
    AdaGeforce,
    /// Compute capability 9.0.
    Hopper,
}

impl Architecture {
    /// bf16 FLOPs of one multiprocessor in one cycle, dense, with fp32 sums. Source: the architectures' white papers.
    #[must_use]
    pub const fn bf16_per_cycle(self) -> f64 {
        match self {
            Self::Ampere => 2048.0,
            Self::Ada => 1024.0,
            Self::AdaGeforce => 512.0,
            Self::Hopper => 4096.0,
        }
    }
}

const H100: &str = "https://resources.nvidia.com/en-us-gpu-resources/h100-datasheet-24306";
const HOPPER: &str = "https://resources.nvidia.com/en-us-hopper-architecture/nvidia-h100-tensor-c";
const H200: &str = "https://www.nvidia.com/en-us/data-center/h200/";
const GH200: &str = "https://www.nvidia.com/en-us/data-center/grace-hopper-superchip/";
const A100: &str = "https://www.nvidia.com/content/dam/en-zz/Solutions/Data-Center/a100/pdf/nvidia-a100-datasheet-us-nvidia-1758950-r4-web.pdf";
const L40S: &str = "https://www.nvidia.com/en-us/data-center/l40s/";
const L4: &str = "https://www.nvidia.com/en-us/data-center/l4/";
const ADA: &str = "https://images.nvidia.com/aem-dam/Solutions/geforce/ada/nvidia-ada-gpu-architecture.pdf";

/// An H100 or H200 as an SXM module, which differ in memory only.
const fn hopper_sxm(name: &'static str, bytes_per_second: f64, source: &'static str) -> Chip {
    Chip {
        name,
        architecture: Architecture::Hopper,
        multiprocessors: 132,
        tensor_clock_hz: 1.83e9,
        bf16: 989.4e12,
        fp8: Some(1978.9e12),
        fp32: 66.9e12,
        bytes_per_second,
        source,
    }
}

/// The same silicon on a card.
const fn hopper_nvl(name: &'static str, bytes_per_second: f64, source: &'static str) -> Chip {
    Chip {
        tensor_clock_hz: 1.545e9,
        bf16: 835.5e12,
        fp8: Some(1670.5e12),
        fp32: 60e12,
        ..hopper_sxm(name, bytes_per_second, source)
    }
}

const fn a100(name: &'static str, bytes_per_second: f64) -> Chip {
    Chip {
        name,
        architecture: Architecture::Ampere,
        multiprocessors: 108,
        tensor_clock_hz: 1.41e9,
        bf16: 312e12,
        fp8: None,
        fp32: 19.5e12,
        bytes_per_second,
        source: A100,
    }
}

/// All chips that are known.
pub const CHIPS: [Chip; 14] = [
    hopper_sxm("NVIDIA H100 80GB HBM3", 3.35e12, H100),
    hopper_nvl("NVIDIA H100 NVL", 3.9e12, H100),
    Chip {
        multiprocessors: 114,
        tensor_clock_hz: 1.62e9,
        bf16: 756.5e12,
        fp8: Some(1513e12),
        fp32: 51.2e12,
        ..hopper_sxm("NVIDIA H100 PCIe", 2.0e12, HOPPER)
    },
    hopper_sxm("NVIDIA H200", 4.8e12, H200),
    hopper_nvl("NVIDIA H200 NVL", 4.8e12, H200),
    hopper_sxm("NVIDIA GH200 480GB", 4.0e12, GH200),
    hopper_sxm("NVIDIA GH200 144G HBM3e", 4.9e12, GH200),
    a100("NVIDIA A100-SXM4-40GB", 1.555e12),
    a100("NVIDIA A100-SXM4-80GB", 2.039e12),
    a100("NVIDIA A100-PCIE-40GB", 1.555e12),
    a100("NVIDIA A100 80GB PCIe", 1.935e12),
    Chip {
        name: "NVIDIA L40S",
        architecture: Architecture::Ada,
        multiprocessors: 142,
        tensor_clock_hz: 2.49e9,
        bf16: 362.05e12,
        fp8: Some(733e12),
        fp32: 91.6e12,
        bytes_per_second: 0.864e12,
        source: L40S,
    },
    Chip {
        name: "NVIDIA L4",
        architecture: Architecture::Ada,
        multiprocessors: 58,
        tensor_clock_hz: 2.04e9,
        bf16: 121e12,
        fp8: Some(242.5e12),
        fp32: 30.3e12,
        bytes_per_second: 0.3e12,
        source: L4,
    },
    Chip {
        name: "NVIDIA GeForce RTX 4090",
        architecture: Architecture::AdaGeforce,
        multiprocessors: 128,
        tensor_clock_hz: 2.52e9,
        bf16: 165.2e12,
        fp8: Some(330.3e12),
        fp32: 82.6e12,
        bytes_per_second: 1.008e12,
        source: ADA,
    },
];

/// The chip of a name, as NVML says it.
#[must_use]
pub fn chip(name: &str) -> Option<&'static Chip> {
    CHIPS.iter().find(|chip| chip.name == name)
}

/// The peaks of built-in cells on this machine; none where its GPU is not in the table, or it runs them on the CPU.
#[must_use]
pub fn of_cells(cells: &[PlannedCell], machine: &Machine, backend: &str) -> Vec<CellPeak> {
    let Some(chip) = machine.gpus.first().and_then(|gpu| chip(&gpu.name)).filter(|_| backend == "cuda") else {
        return Vec::new();
    };
    let peak = |planned: &PlannedCell| match &planned.work {
        Work::Builtin(config) => {
            let (flops_per_second, source) = of_step(config, chip)?;
            Some(CellPeak { cell: planned.cell.id.clone(), flops_per_second, source })
        }
        Work::Command(_) => None,
    };
    cells.iter().filter_map(peak).collect()
}

/// The peak of a step's own mix of dtypes, FLOP/s, with the mix and its source in words: the FLOPs of all dtypes over the time
/// that each takes at its own peak.
fn of_step(config: &StepConfig, chip: &Chip) -> Option<(f64, String)> {
    let step = count::step(config);
    let fp8: f64 = step.gemms.iter().filter(|gemm| gemm.fp8).map(|gemm| gemm.flops_per_token).sum();
    let products: f64 = step.gemms.iter().map(|gemm| gemm.flops_per_token).sum();
    // Backward is two forwards: what a kernel computes again is no work of the model's.
    let plain = products - fp8 + 3.0 * step.attention_forward_flops_per_token;
    let (name, plain_peak) = match config.precision {
        Precision::Fp32 => ("fp32", chip.fp32),
        _ => ("bf16", chip.bf16),
    };
    let mut parts = vec![(name, plain, plain_peak)];
    if fp8 > 0.0 {
        parts.insert(0, ("fp8", fp8, chip.fp8?));
    }
    let total = plain + fp8;
    let seconds: f64 = parts.iter().map(|(_, flops, peak)| flops / peak).sum();
    let words: Vec<String> = parts
        .iter()
        .map(|(name, flops, peak)| format!("{:.0} % {name} at {:.0} TFLOP/s", 100.0 * flops / total, peak / 1e12))
        .collect();
    Some((total / seconds, format!("{}, dense ({}; {})", words.join(" and "), chip.name, chip.source)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use stepwatch_model::config::preset;

    #[test]
    fn chips_of_one_architecture_size_and_clock_have_one_peak() {
        for a in &CHIPS {
            for b in &CHIPS {
                let alike = (a.architecture, a.multiprocessors) == (b.architecture, b.multiprocessors)
                    && (a.tensor_clock_hz - b.tensor_clock_hz).abs() < 1e6;
                assert!(!alike || (a.bf16, a.fp8, a.fp32) == (b.bf16, b.fp8, b.fp32), "{} and {}", a.name, b.name);
            }
        }
    }

    #[test]
    fn every_peak_is_dense() {
        for chip in &CHIPS {
            // A figure with sparsity would be twice as much.
            let computed = f64::from(chip.multiprocessors) * chip.tensor_clock_hz * chip.architecture.bf16_per_cycle();
            assert!((chip.bf16 / computed - 1.0).abs() < 0.01, "{}: {} computed", chip.name, computed / 1e12);
            if let Some(fp8) = chip.fp8 {
                assert!((fp8 / chip.bf16 - 2.0).abs() < 0.03, "{}", chip.name);
            }
            assert!(chip.source.starts_with("https://") && chip.bytes_per_second > 1e11);
        }
        let mut names: Vec<&str> = CHIPS.iter().map(|chip| chip.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), CHIPS.len());
    }

    #[test]
    fn a_cells_peak_is_that_of_its_own_dtypes() {
        let h100 = chip("NVIDIA H100 80GB HBM3").unwrap();
        let config = |precision| StepConfig { precision, ..StepConfig::example(preset("454m").unwrap(), 16, 2048) };
        let (bf16, words) = of_step(&config(Precision::Bf16), h100).unwrap();
        assert!((bf16 / h100.bf16 - 1.0).abs() < 1e-12);
        assert!(words.starts_with("100 % bf16 at 989 TFLOP/s, dense (NVIDIA H100 80GB HBM3; https://"), "{words}");
        assert_eq!(of_step(&config(Precision::Fp32), h100).unwrap().0.round(), h100.fp32);
        // 403 M of 454 M parameters are in FP8 linears; attention and the classifier stay in bf16.
        let (fp8, words) = of_step(&config(Precision::Fp8Tensorwise), h100).unwrap();
        assert!(fp8 > 1.4 * h100.bf16 && fp8 < 1.8 * h100.bf16, "{fp8}");
        assert!(words.contains("% fp8 at 1979 TFLOP/s and ") && words.contains("% bf16 at 989 TFLOP/s"), "{words}");
        assert_eq!(of_step(&config(Precision::Fp8Tensorwise), chip("NVIDIA A100-SXM4-80GB").unwrap()), None);
        assert_eq!(chip("NVIDIA H100"), None);
    }
}
