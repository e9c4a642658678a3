//! What NVML says of a GPU while a worker runs: clocks, power, temperature and throttle reasons as a time line, energy and
//! error counts once at both ends. Observed, never set.
//!
//! The parent watches by UUID and never opens CUDA. Without a driver this file says so in one value; nothing panics.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nvml_wrapper::enum_wrappers::device::{Clock, EccCounter, MemoryError, TemperatureSensor};
use nvml_wrapper::enums::device::SampleValue;
use nvml_wrapper::structs::device::FieldId;
use nvml_wrapper::{Device, Nvml};
use stepwatch_record::machine::Gpu;

/// `NVML_FI_DEV_POWER_INSTANT`: power now; `nvmlDeviceGetPowerUsage` is an average over a second. Source: nvml.h.
const POWER_INSTANT: FieldId = FieldId(186);

/// How often the time line is read. A query takes under a microsecond; sensors refresh every 20–100 ms.
pub const PERIOD: Duration = Duration::from_millis(20);

/// NVML is not to be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClocksError {
    /// No driver, or no library.
    #[error(
        "NVML cannot be opened ({0}): clocks and power are not recorded; it comes with the NVIDIA driver (libnvidia-ml.so.1)"
    )]
    NoNvml(String),
    /// No GPU of that UUID.
    #[error("NVML knows no GPU {uuid} ({why})")]
    NoGpu {
        /// The UUID asked for.
        uuid: String,
        /// What NVML said.
        why: String,
    },
}

/// One reading.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reading {
    /// When.
    pub at: Instant,
    /// SM clock, Hz.
    pub sm_clock_hz: f64,
    /// Power now, W.
    pub power_w: f64,
    /// GPU temperature, °C.
    pub temperature_c: f64,
    /// Throttle reasons, NVML's bits.
    pub throttle: u64,
}

/// What is read once before and once after a worker.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Snapshot {
    /// Energy since the driver was loaded, J.
    pub energy_j: Option<f64>,
    /// Uncorrected ECC errors since the last reset.
    pub ecc_uncorrected: Option<u64>,
    /// Compute processes on the GPU.
    pub processes: Option<usize>,
}

/// What a watch saw.
#[derive(Debug, Clone, PartialEq)]
pub struct Timeline {
    /// Readings in order of time.
    pub readings: Vec<Reading>,
    /// Before the worker.
    pub before: Snapshot,
    /// After it.
    pub after: Snapshot,
}

impl Timeline {
    /// The reading nearest to a moment, if one lies within five periods of it.
    #[must_use]
    pub fn at(&self, moment: Instant) -> Option<&Reading> {
        let later = self.readings.partition_point(|reading| reading.at < moment);
        let near = |reading: &&Reading| {
            let distance = reading.at.max(moment) - reading.at.min(moment);
            distance <= PERIOD * 5
        };
        let distance = |reading: &&Reading| reading.at.max(moment) - reading.at.min(moment);
        let around =
            [later.checked_sub(1), Some(later)].into_iter().flatten().filter_map(|index| self.readings.get(index));
        around.filter(near).min_by_key(distance)
    }

    /// Energy spent between the two snapshots, J.
    #[must_use]
    pub fn energy_j(&self) -> Option<f64> {
        Some(self.after.energy_j? - self.before.energy_j?)
    }
}

/// A GPU being watched from another thread.
#[derive(Debug)]
pub struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Timeline, ClocksError>>,
}

impl Watch {
    /// Starts to watch a GPU.
    #[must_use]
    pub fn start(uuid: String) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        Self { stop, thread: std::thread::spawn(move || watch(&uuid, &told)) }
    }

    /// Ends the watch and gives what it saw.
    ///
    /// # Errors
    /// [`ClocksError`] if NVML or the GPU was not to be had.
    pub fn stop(self) -> Result<Timeline, ClocksError> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|_| Err(ClocksError::NoNvml("the watching thread died".to_owned())))
    }
}

fn open() -> Result<Nvml, ClocksError> {
    Nvml::init().map_err(|error| ClocksError::NoNvml(error.to_string()))
}

fn watch(uuid: &str, stop: &AtomicBool) -> Result<Timeline, ClocksError> {
    let nvml = open()?;
    let device = nvml
        .device_by_uuid(uuid)
        .map_err(|error| ClocksError::NoGpu { uuid: uuid.to_owned(), why: error.to_string() })?;
    let before = snapshot(&device);
    let mut readings = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        readings.push(read(&device));
        std::thread::sleep(PERIOD);
    }
    Ok(Timeline { readings, before, after: snapshot(&device) })
}

fn read(device: &Device<'_>) -> Reading {
    Reading {
        at: Instant::now(),
        sm_clock_hz: device.clock_info(Clock::SM).map_or(f64::NAN, |mhz| f64::from(mhz) * 1e6),
        power_w: power(device),
        temperature_c: device.temperature(TemperatureSensor::Gpu).map_or(f64::NAN, f64::from),
        throttle: device.current_throttle_reasons().map_or(0, |reasons| reasons.bits()),
    }
}

/// Power now, W; the one-second average where the instantaneous field is not supported.
fn power(device: &Device<'_>) -> f64 {
    let instant =
        device.field_values_for(&[POWER_INSTANT]).ok().and_then(|mut values| match values.pop()?.ok()?.value.ok()? {
            SampleValue::U32(milliwatt) => Some(f64::from(milliwatt) / 1e3),
            _ => None,
        });
    instant.unwrap_or_else(|| device.power_usage().map_or(f64::NAN, |milliwatt| f64::from(milliwatt) / 1e3))
}

#[expect(clippy::cast_precision_loss, reason = "millijoules since boot fit 53 bits for three thousand years at 100 kW")]
fn snapshot(device: &Device<'_>) -> Snapshot {
    Snapshot {
        energy_j: device.total_energy_consumption().ok().map(|millijoule| millijoule as f64 / 1e3),
        ecc_uncorrected: device.total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile).ok(),
        processes: device.running_compute_processes().ok().map(|processes| processes.len()),
    }
}

/// The GPUs of this machine and the driver's version.
///
/// # Errors
/// [`ClocksError::NoNvml`] without a driver.
pub fn gpus() -> Result<(Vec<Gpu>, Option<String>), ClocksError> {
    let nvml = open()?;
    let count = nvml.device_count().map_err(|error| ClocksError::NoNvml(error.to_string()))?;
    let gpus =
        (0..count).filter_map(|index| nvml.device_by_index(index).ok()).map(|device| describe(&device)).collect();
    Ok((gpus, nvml.sys_driver_version().ok()))
}

fn describe(device: &Device<'_>) -> Gpu {
    Gpu {
        name: device.name().unwrap_or_default(),
        uuid: device.uuid().unwrap_or_default(),
        memory_bytes: device.memory_info().map_or(0, |memory| memory.total),
        power_limit_w: device.enforced_power_limit().ok().map(|milliwatt| f64::from(milliwatt) / 1e3),
        max_sm_clock_hz: device.max_clock_info(Clock::SM).ok().map(|mhz| f64::from(mhz) * 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeline(offsets_ms: &[u64], origin: Instant) -> Timeline {
        let reading = |&offset: &u64| Reading {
            at: origin + Duration::from_millis(offset),
            sm_clock_hz: offset as f64,
            power_w: 0.0,
            temperature_c: 0.0,
            throttle: 0,
        };
        Timeline {
            readings: offsets_ms.iter().map(reading).collect(),
            before: Snapshot { energy_j: Some(10.0), ..Snapshot::default() },
            after: Snapshot { energy_j: Some(12.5), ..Snapshot::default() },
        }
    }

    #[test]
    fn a_moment_gets_its_nearest_reading_and_none_from_afar() {
        let origin = Instant::now();
        let line = timeline(&[0, 20, 40, 400], origin);
        let cases = [
            (0, Some(0.0)),
            (9, Some(0.0)),
            (11, Some(20.0)),
            (139, Some(40.0)),
            (200, None),
            (350, Some(400.0)),
            (501, None),
        ];
        for (offset, expected) in cases {
            let found = line.at(origin + Duration::from_millis(offset)).map(|reading| reading.sm_clock_hz);
            assert_eq!(found, expected, "at {offset} ms");
        }
        assert_eq!(line.energy_j(), Some(2.5));
    }

    #[test]
    fn without_a_driver_the_reason_is_a_value() {
        if let Err(error) = gpus() {
            assert!(error.to_string().contains("NVIDIA driver"), "{error}");
        }
        let watch = Watch::start("GPU-00000000-0000-0000-0000-000000000000".to_owned());
        assert!(watch.stop().is_err());
    }
}
