//! Which devices could run the built-in step here. Drivers and libraries are opened in a child: a CUDA context in the parent
//! would take memory and time on the GPU for the whole sweep, and a driver that crashes or hangs must be an answer, too.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use stepwatch_model::probe::{self, Found, Probe, mapped};
use stepwatch_record::machine::{Gpu, GpuState, Library, Machine};

use crate::builtin::Ended;
use crate::clocks;
use crate::fault::{self, Stage};
use crate::runner::launch;
use crate::runner::output::Tail;
use crate::runner::process::{Event, Process, Quiet, Stream};

/// How long the child may take: eight GPUs that nobody keeps initialised need ten seconds.
const LIMIT: Duration = Duration::from_secs(30);

/// What the child found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// CUDA's side: devices, libraries, what keeps cells from running.
    pub cuda: Probe,
    /// NVML as a library.
    pub nvml: Option<Found>,
    /// NVML's side: every GPU of the machine with its state.
    pub gpus: Vec<(Gpu, GpuState)>,
    /// The driver's version.
    pub driver: Option<String>,
}

impl Answer {
    /// Whether the CUDA backend can run here.
    ///
    /// # Errors
    /// What is missing, in one line.
    pub fn usable(&self) -> Result<(), String> {
        self.cuda.obstacle.clone().map_or(Ok(()), Err)
    }

    /// The UUID of the GPU that a worker takes: the first visible one.
    #[must_use]
    pub fn gpu(&self) -> Option<&str> {
        self.cuda.devices.first().map(|device| device.uuid.as_str())
    }

    /// Writes what was found into a machine: of its GPUs the one that is used, and the libraries.
    pub fn complete(&self, machine: &mut Machine) {
        let used = self.gpu().and_then(|uuid| machine.gpus.iter().find(|gpu| gpu.uuid == uuid).cloned());
        if let Some(used) = used {
            machine.gpus = vec![used];
        }
        let loaded = self.cuda.libraries.iter().filter(|library| library.name != "driver");
        machine.libraries = loaded
            .filter_map(|library| {
                let (version, path) = (library.version.clone()?, library.path.clone()?);
                Some(Library { name: library.name.clone(), version, path })
            })
            .collect();
    }
}

/// The child's side: opens everything and gives the answer as one line of JSON.
#[must_use]
pub fn answer() -> String {
    let found = match fault::strike(Stage::Probe).map_err(Ended::into_reason) {
        Ok(()) => look(),
        Err(why) => Answer { cuda: Probe { obstacle: Some(why), ..Probe::default() }, ..Answer::default() },
    };
    // Plain data with text keys can always be written.
    serde_json::to_string(&found).unwrap_or_default() + "\n"
}

fn look() -> Answer {
    let version = clocks::version();
    let path = mapped().into_iter().find(|file| file.name.starts_with("libnvidia-ml.so"));
    let nvml = Found {
        name: "nvml".to_owned(),
        path: path.map(|file| file.path.display().to_string()),
        problem: version.as_ref().err().map(ToString::to_string),
        version: version.ok(),
    };
    let driver = clocks::gpus().ok().and_then(|(_, driver)| driver);
    Answer { cuda: probe::probe(), nvml: Some(nvml), gpus: clocks::states().unwrap_or_default(), driver }
}

/// Asks a child what is here; `device` is the UUID of the only GPU that it may see.
///
/// # Errors
/// How the child ended instead of answering, and what that means.
pub fn ask(device: Option<&str>) -> Result<Answer, String> {
    ask_within(device, LIMIT)
}

fn ask_within(device: Option<&str>, limit: Duration) -> Result<Answer, String> {
    let mut command = launch::this_binary()?;
    command.args(["worker", "--probe"]);
    launch::visible(&mut command, device);
    let process = Process::start(&mut command, false).map_err(|error| format!("no probe can be started: {error}"))?;
    let deadline = Instant::now() + limit;
    let (mut told, mut tail) = (String::new(), Tail::default());
    let mut keep = |stream: Stream, line: String| match stream {
        Stream::Out if line.starts_with('{') => told = line,
        Stream::Out => tail.push(&line),
        Stream::Err => tail.push_error(&line),
    };
    let hung = loop {
        match process.next(deadline) {
            Ok(Event::Line(stream, line)) => keep(stream, line),
            Ok(Event::Closed) => {}
            Ok(Event::Ended) | Err(Quiet::Interrupted(_)) => break false,
            Err(Quiet::Deadline) => break true,
        }
    };
    let ended = process.end(&mut keep).map_err(|error| format!("how the probe ended cannot be known: {error}"))?;
    if hung {
        return Err(format!(
            "the probe that opens the driver and its libraries did not end within {} s and was killed: the driver hangs; \
             see `dmesg` for Xid errors, and restart the machine or reset its GPU",
            limit.as_secs()
        ));
    }
    serde_json::from_str(&told).map_err(|_| {
        use std::os::unix::process::ExitStatusExt;
        let how = match ended.status.signal() {
            Some(signal) => format!("crashed with signal {signal}"),
            None => format!("ended with status {}", ended.status.code().unwrap_or(-1)),
        };
        let last = tail.last().map(|last| format!("; its last line was `{last}`")).unwrap_or_default();
        format!(
            "the probe that opens the driver and its libraries {how}{last}: driver and libraries do not fit one another, \
             or one is damaged; install the driver again"
        )
    })
}

/// Whether the CUDA backend can run here, and on what.
///
/// # Errors
/// What is missing, in one line.
pub fn cuda(device: Option<&str>) -> Result<Answer, String> {
    let answer = ask(device)?;
    answer.usable().map(|()| answer)
}

/// The UUID of the GPU that `--device` names, by NVML's index or by its UUID.
///
/// # Errors
/// That there is none such, and which there are.
pub fn select(named: &str) -> Result<String, String> {
    let (gpus, _) = clocks::gpus().map_err(|error| format!("--device {named}: {error}"))?;
    choose(named, &gpus)
}

fn choose(named: &str, gpus: &[Gpu]) -> Result<String, String> {
    let found = match named.parse::<usize>() {
        Ok(index) => gpus.get(index),
        Err(_) => gpus.iter().find(|gpu| gpu.uuid.eq_ignore_ascii_case(named)),
    };
    found.map(|gpu| gpu.uuid.clone()).ok_or_else(|| {
        let list: Vec<String> =
            gpus.iter().enumerate().map(|(index, gpu)| format!("{index} ({}, {})", gpu.name, gpu.uuid)).collect();
        let list = if list.is_empty() { "none".to_owned() } else { list.join(", ") };
        format!("--device {named}: there is no such GPU; by index or UUID there are: {list}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_is_named_by_index_or_uuid_and_an_unknown_one_lists_all() {
        let gpu = |uuid: &str| Gpu { name: "H100".to_owned(), uuid: uuid.to_owned(), ..Gpu::default() };
        let gpus = [gpu("GPU-a"), gpu("GPU-b")];
        assert_eq!(choose("1", &gpus), Ok("GPU-b".to_owned()));
        assert_eq!(choose("gpu-A", &gpus), Ok("GPU-a".to_owned()));
        for wrong in ["2", "GPU-c", "-1", ""] {
            assert_eq!(
                choose(wrong, &gpus).unwrap_err(),
                format!(
                    "--device {wrong}: there is no such GPU; by index or UUID there are: 0 (H100, GPU-a), 1 (H100, GPU-b)"
                )
            );
        }
        assert!(choose("0", &[]).unwrap_err().ends_with("there are: none"));
    }

    #[test]
    fn of_the_machines_gpus_the_used_one_is_kept() {
        let found: Answer = serde_json::from_str(
            r#"{"cuda":{"devices":[{"ordinal":0,"name":"H100","uuid":"GPU-b","multiprocessors":132,"memory_bytes":1,
                "capability":[9,0],"shared_bytes_per_block":1,"l2_bytes":1,"sm_clock_hz":1,"driver_cuda":[13,0]}],
                "libraries":[{"name":"driver","version":"CUDA 13.0","path":"/d","problem":null},
                             {"name":"nvrtc","version":"13.0","path":"/n","problem":null},
                             {"name":"cudnn","version":null,"path":null,"problem":"missing"}],
                "obstacle":null},"nvml":null,"gpus":[],"driver":"580"}"#,
        )
        .unwrap();
        let gpu = |uuid: &str| Gpu { uuid: uuid.to_owned(), ..Gpu::default() };
        let mut machine = Machine { gpus: vec![gpu("GPU-a"), gpu("GPU-b")], ..Machine::default() };
        found.complete(&mut machine);
        assert_eq!(machine.gpus, [gpu("GPU-b")]);
        let names: Vec<&str> = machine.libraries.iter().map(|library| library.name.as_str()).collect();
        assert_eq!(names, ["nvrtc"]);
        assert_eq!(found.usable(), Ok(()));
    }
}
