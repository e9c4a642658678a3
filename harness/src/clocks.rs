//! What NVML says of a GPU while a worker runs: clocks, power, temperature and throttle reasons as a time line; settings,
//! error counts, energy and processes of others at both ends; Xid errors meanwhile. Observed, never set.
//!
//! The parent watches by UUID and never opens CUDA. Without a driver this file says so in one value; nothing panics.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enum_wrappers::device::{Clock, EccCounter, MemoryError, TemperatureSensor};
use nvml_wrapper::enums::device::SampleValue;
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::structs::device::FieldId;
use nvml_wrapper::{Device, EventSet, Nvml};
use stepwatch_record::machine::{Gpu, GpuState, GpuWatch};

use crate::runner::tree;

/// `NVML_FI_DEV_POWER_INSTANT`: power now; `nvmlDeviceGetPowerUsage` is an average over a second. Source: nvml.h.
const POWER_INSTANT: FieldId = FieldId(186);

/// How often the time line is read. A query takes under a microsecond; sensors refresh every 20–100 ms.
pub const PERIOD: Duration = Duration::from_millis(20);

/// How often it is looked for processes of others and for Xid errors.
const RARE_PERIOD: Duration = Duration::from_secs(1);

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

/// What a watch saw.
#[derive(Debug, Clone, PartialEq)]
pub struct Timeline {
    /// Readings in order of time.
    pub readings: Vec<Reading>,
    /// Both ends, and what happened between them.
    pub watch: GpuWatch,
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

    /// Mean power between two moments, W; `None` where nothing was read then.
    #[must_use]
    pub fn mean_power_w(&self, from: Instant, to: Instant) -> Option<f64> {
        let within = self.readings.iter().filter(|reading| (from..=to).contains(&reading.at));
        let watts: Vec<f64> = within.map(|reading| reading.power_w).filter(|watts| watts.is_finite()).collect();
        (!watts.is_empty()).then(|| watts.iter().sum::<f64>() / watts.len() as f64)
    }

    /// The least power that was read, W.
    #[must_use]
    pub fn least_power_w(&self) -> Option<f64> {
        let watts = self.readings.iter().map(|reading| reading.power_w).filter(|watts| watts.is_finite());
        watts.reduce(f64::min)
    }
}

/// A GPU being watched from another thread.
#[derive(Debug)]
pub struct Watch {
    stop: Arc<AtomicBool>,
    worker: Arc<AtomicU32>,
    thread: JoinHandle<Result<Timeline, ClocksError>>,
}

impl Watch {
    /// Starts to watch a GPU; its state before is read when this returns. `worker` is the process that uses it, if it was
    /// started already.
    #[must_use]
    pub fn start(uuid: String, worker: Option<u32>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let pid = Arc::new(AtomicU32::new(worker.unwrap_or(0)));
        let (told, seen) = (Arc::clone(&stop), Arc::clone(&pid));
        let (begun, begins) = channel::<()>();
        let thread = std::thread::spawn(move || watch(&uuid, &told, &seen, || drop(begun)));
        // The sender is dropped once the state is read, or the watch has failed.
        let _ = begins.recv();
        Self { stop, worker: pid, thread }
    }

    /// Names the process that uses the GPU, and whose descendants are no others.
    pub fn worker_is(&self, pid: u32) {
        self.worker.store(pid, Ordering::Relaxed);
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

/// What the watched GPU did a moment ago, for whoever shows it.
static LATEST: Mutex<Option<Reading>> = Mutex::new(None);

fn publish(reading: Option<Reading>) {
    *LATEST.lock().unwrap_or_else(PoisonError::into_inner) = reading;
}

/// The latest reading of the GPU that is being watched; `None` while none is.
#[must_use]
pub fn latest() -> Option<Reading> {
    *LATEST.lock().unwrap_or_else(PoisonError::into_inner)
}

/// NVML, opened once a process: it holds no context.
fn open() -> Result<&'static Nvml, ClocksError> {
    static NVML: OnceLock<Result<Nvml, ClocksError>> = OnceLock::new();
    let opened = NVML.get_or_init(|| Nvml::init().map_err(|error| ClocksError::NoNvml(error.to_string())));
    opened.as_ref().map_err(Clone::clone)
}

fn watch(uuid: &str, stop: &AtomicBool, worker: &AtomicU32, begun: impl FnOnce()) -> Result<Timeline, ClocksError> {
    let nvml = open()?;
    let device = nvml
        .device_by_uuid(uuid)
        .map_err(|error| ClocksError::NoGpu { uuid: uuid.to_owned(), why: error.to_string() })?;
    let errors = xid_events(nvml, &device);
    let mut watch = GpuWatch {
        uuid: uuid.to_owned(),
        before: state(&device, worker.load(Ordering::Relaxed)),
        xid: errors.is_some().then(Vec::new),
        ..GpuWatch::default()
    };
    begun();
    let mut readings = Vec::new();
    let mut looked = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let reading = read(&device);
        publish(Some(reading));
        readings.push(reading);
        if looked.elapsed() >= RARE_PERIOD {
            looked = Instant::now();
            let others = others(&device, worker.load(Ordering::Relaxed)).unwrap_or(0);
            watch.other_processes_meanwhile = watch.other_processes_meanwhile.max(others);
            take_xid(errors.as_ref(), &mut watch);
        }
        std::thread::sleep(PERIOD);
    }
    publish(None);
    take_xid(errors.as_ref(), &mut watch);
    // The worker has ended: whatever is there now is another's.
    watch.after = state(&device, 0);
    Ok(Timeline { readings, watch })
}

/// The driver's Xid errors of a GPU as events; `None` where it does not offer them.
fn xid_events<'nvml>(nvml: &'nvml Nvml, device: &Device<'nvml>) -> Option<EventSet<'nvml>> {
    device.register_events(EventTypes::CRITICAL_XID_ERROR, nvml.create_event_set().ok()?).ok()
}

/// Takes the Xid errors that came since, without waiting for any.
fn take_xid(errors: Option<&EventSet<'_>>, watch: &mut GpuWatch) {
    /// More of them say nothing new.
    const MOST: usize = 16;
    let (Some(errors), Some(xid)) = (errors, &mut watch.xid) else { return };
    while xid.len() < MOST
        && let Ok(event) = errors.wait(0)
    {
        match event.event_data {
            Some(XidError::Value(code)) => xid.push(code),
            Some(XidError::Unknown) => xid.push(999),
            None => {}
        }
    }
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
fn state(device: &Device<'_>, worker: u32) -> GpuState {
    let errors = |kind| device.total_ecc_errors(kind, EccCounter::Volatile).ok();
    GpuState {
        other_processes: others(device, worker),
        memory_used_bytes: device.memory_info().ok().map(|memory| memory.used),
        power_limit_w: device.enforced_power_limit().ok().map(|milliwatt| f64::from(milliwatt) / 1e3),
        ecc: device.is_ecc_enabled().ok().map(|ecc| ecc.currently_enabled),
        ecc_corrected: errors(MemoryError::Corrected),
        ecc_uncorrected: errors(MemoryError::Uncorrected),
        mig: mig(device),
        persistence: device.is_in_persistent_mode().ok(),
        energy_j: device.total_energy_consumption().ok().map(|millijoule| millijoule as f64 / 1e3),
        temperature_c: device.temperature(TemperatureSensor::Gpu).ok().map(f64::from),
    }
}

/// Whether the GPU is cut into instances. A GPU that cannot be says that it does not support the question.
fn mig(device: &Device<'_>) -> Option<bool> {
    match device.mig_mode() {
        Ok(mode) => Some(mode.current != 0),
        Err(NvmlError::NotSupported) => Some(false),
        Err(_) => None,
    }
}

/// Processes on the GPU that are neither this worker nor of its descendants, nor workers that rest.
fn others(device: &Device<'_>, worker: u32) -> Option<u32> {
    let mut on_it: Vec<u32> = device.running_compute_processes().ok()?.iter().map(|process| process.pid).collect();
    on_it.extend(device.running_graphics_processes().unwrap_or_default().iter().map(|process| process.pid));
    let mut own = tree::resting();
    let mut workers = tree::resting_workers();
    if worker != 0 {
        own.insert(worker);
        own.extend(tree::started_by(worker));
        workers += 1;
    }
    Some(strangers(&on_it, &own, workers))
}

/// How many of the processes on a GPU are not our own. In a container NVML tells the host's process ids, so that none may
/// be known as ours; as many as we have workers are then taken to be them.
fn strangers(on_it: &[u32], own: &BTreeSet<u32>, workers: usize) -> u32 {
    let distinct: BTreeSet<u32> = on_it.iter().copied().collect();
    let ours = distinct.intersection(own).count().max(workers);
    u32::try_from(distinct.len().saturating_sub(ours)).unwrap_or(u32::MAX)
}

/// The GPUs of this machine and the driver's version.
///
/// # Errors
/// [`ClocksError::NoNvml`] without a driver.
pub fn gpus() -> Result<(Vec<Gpu>, Option<String>), ClocksError> {
    let nvml = open()?;
    Ok((devices(nvml)?.iter().map(describe).collect(), nvml.sys_driver_version().ok()))
}

/// The GPUs of this machine as they are now, with nobody of ours on them.
///
/// # Errors
/// [`ClocksError::NoNvml`] without a driver.
pub fn states() -> Result<Vec<(Gpu, GpuState)>, ClocksError> {
    Ok(devices(open()?)?.iter().map(|device| (describe(device), state(device, 0))).collect())
}

/// NVML's own version.
///
/// # Errors
/// [`ClocksError::NoNvml`] without a driver.
pub fn version() -> Result<String, ClocksError> {
    open()?.sys_nvml_version().map_err(|error| ClocksError::NoNvml(error.to_string()))
}

fn devices(nvml: &'static Nvml) -> Result<Vec<Device<'static>>, ClocksError> {
    let count = nvml.device_count().map_err(|error| ClocksError::NoNvml(error.to_string()))?;
    Ok((0..count).filter_map(|index| nvml.device_by_index(index).ok()).collect())
}

fn describe(device: &Device<'_>) -> Gpu {
    let watts = |milliwatt: u32| f64::from(milliwatt) / 1e3;
    Gpu {
        name: device.name().unwrap_or_default(),
        uuid: device.uuid().unwrap_or_default(),
        memory_bytes: device.memory_info().map_or(0, |memory| memory.total),
        power_limit_w: device.enforced_power_limit().ok().map(watts),
        max_sm_clock_hz: device.max_clock_info(Clock::SM).ok().map(|mhz| f64::from(mhz) * 1e6),
        pci_id: device.pci_info().ok().map(|pci| pci.bus_id),
        power_limit_default_w: device.power_management_limit_default().ok().map(watts),
        ecc: device.is_ecc_enabled().ok().map(|ecc| ecc.currently_enabled),
        mig: mig(device),
        persistence: device.is_in_persistent_mode().ok(),
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
        Timeline { readings: offsets_ms.iter().map(reading).collect(), watch: GpuWatch::default() }
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
    }

    #[test]
    fn power_is_the_mean_between_two_moments_and_the_least_of_all() {
        let origin = Instant::now();
        let mut line = timeline(&[0, 20, 40, 60], origin);
        for (reading, watts) in line.readings.iter_mut().zip([70.0, 600.0, 700.0, f64::NAN]) {
            reading.power_w = watts;
        }
        let at = |ms| origin + Duration::from_millis(ms);
        assert_eq!(line.mean_power_w(at(10), at(60)), Some(650.0));
        assert_eq!(line.mean_power_w(at(50), at(60)), None);
        assert_eq!(line.least_power_w(), Some(70.0));
        assert_eq!(timeline(&[], origin).least_power_w(), None);
    }

    #[test]
    fn others_on_a_gpu_are_told_from_our_own() {
        let held = |on_it: &[u32], own: &[u32], workers: usize, expected: u32, what: &str| {
            assert_eq!(strangers(on_it, &own.iter().copied().collect(), workers), expected, "{what}");
        };
        held(&[], &[], 0, 0, "nobody");
        held(&[7, 8], &[], 0, 2, "before a worker starts all are others");
        held(&[7], &[7], 1, 0, "the worker alone");
        held(&[7, 8, 8], &[7, 9], 1, 1, "one other, told twice (compute and graphics)");
        held(&[5, 7, 8], &[5, 6, 7], 2, 1, "a worker that rests, the one that runs, and another");
        held(&[4001], &[7], 1, 0, "a container: the host's id of our worker");
        held(&[4001, 4002], &[7], 1, 1, "a container: ours and another");
        held(&[4001, 4002], &[7, 8], 2, 0, "a container: ours and one of ours that rests");
    }

    #[test]
    fn without_a_driver_the_reason_is_a_value() {
        if let Err(error) = gpus() {
            assert!(error.to_string().contains("NVIDIA driver"), "{error}");
        }
        let watch = Watch::start("GPU-00000000-0000-0000-0000-000000000000".to_owned(), None);
        assert!(watch.stop().is_err());
    }
}
