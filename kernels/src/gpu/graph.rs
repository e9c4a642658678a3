//! Prepared work captured as one CUDA graph: launched as a whole, with no host between its parts. The same launches in the
//! same order leave the same bits.
#![allow(unsafe_code)]

use std::rc::Rc;

use cudarc::driver::{result, sys};

use super::{Context, Gpu, GpuError, Prepared};
use crate::timer::Event;

/// A captured list of work, with the events that it records on its way.
#[derive(Debug)]
pub struct Graph {
    graph: sys::CUgraph,
    executable: sys::CUgraphExec,
    // What the nodes' arguments point into, and what they record.
    _ops: Rc<[Prepared]>,
    _events: Vec<Rc<Event>>,
    _context: Rc<Context>,
}

/// Events, each with the index of the op before which it is recorded; the number of ops is behind the last. Ascending.
pub type Marks = [(usize, Rc<Event>)];

impl Gpu {
    /// Captures work as a graph that records the marks' events whenever it is launched. Nothing is run.
    ///
    /// # Errors
    /// If some call cannot be captured; the stream is then as before.
    pub fn capture(&self, ops: &Rc<[Prepared]>, marks: &Marks) -> Result<Graph, GpuError> {
        // Libraries load their kernels when they are first launched, which the stricter modes forbid while one captures.
        let mode = sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: the stream is live; what is enqueued until the end of the capture becomes nodes and does not run.
        unsafe { result::stream::begin_capture(self.stream, mode) }
            .map_err(|error| GpuError::driver("cuStreamBeginCapture", error))?;
        let enqueued = self.enqueue_marked(ops, marks, Event::record_in_graph);
        // SAFETY: begun above; ended whatever became of it, so that the stream runs work again.
        let ended = unsafe { result::stream::end_capture(self.stream) };
        let graph = match (enqueued, ended) {
            (Ok(()), Ok(graph)) if !graph.is_null() => graph,
            (Err(error), ended) => {
                if let Ok(graph) = ended
                    && !graph.is_null()
                {
                    // SAFETY: made by the capture, used by nothing.
                    let _ = unsafe { result::graph::destroy(graph) };
                }
                return Err(error);
            }
            (_, Err(error)) => return Err(GpuError::driver("cuStreamEndCapture", error)),
            (_, Ok(_)) => {
                let (op, what) = ("graph".to_owned(), "the capture came out empty".to_owned());
                return Err(GpuError::Unsupported { op, what });
            }
        };
        let flags = sys::CUgraphInstantiate_flags(0);
        // SAFETY: the graph is live.
        let executable = match unsafe { result::graph::instantiate(graph, flags) } {
            Ok(executable) => executable,
            Err(error) => {
                // SAFETY: made by the capture, used by nothing.
                let _ = unsafe { result::graph::destroy(graph) };
                return Err(GpuError::driver("cuGraphInstantiate", error));
            }
        };
        let _events = marks.iter().map(|(_, event)| Rc::clone(event)).collect();
        let captured = Graph { graph, executable, _ops: Rc::clone(ops), _events, _context: Rc::clone(self.context()) };
        // SAFETY: both are live. What is uploaded now is not uploaded by the first launch.
        unsafe { result::graph::upload(captured.executable, self.stream) }
            .map_err(|error| GpuError::driver("cuGraphUpload", error))?;
        Ok(captured)
    }

    /// Launches a graph.
    ///
    /// # Errors
    /// If the driver refuses, or work before it has failed.
    pub fn launch(&self, graph: &Graph) -> Result<(), GpuError> {
        // SAFETY: both are live, and the graph holds what its nodes point to.
        unsafe { result::graph::launch(graph.executable, self.stream) }
            .map_err(|error| GpuError::driver("cuGraphLaunch", error))
    }

    /// Enqueues work one by one and records the marks' events, as a graph would.
    ///
    /// # Errors
    /// If a launch is refused, or work before it has failed.
    pub fn enqueue_all(&self, ops: &[Prepared], marks: &Marks) -> Result<(), GpuError> {
        self.enqueue_marked(ops, marks, Event::record)
    }

    fn enqueue_marked(
        &self,
        ops: &[Prepared],
        marks: &Marks,
        record: impl Fn(&Event, &Self) -> Result<(), GpuError>,
    ) -> Result<(), GpuError> {
        let mut waiting = marks.iter().peekable();
        for (index, op) in ops.iter().enumerate() {
            while let Some((_, event)) = waiting.next_if(|(before, _)| *before <= index) {
                record(event, self)?;
            }
            self.enqueue(op)?;
        }
        waiting.try_for_each(|(_, event)| record(event, self))
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: both were made once and are destroyed once; a launch under way is completed by the driver.
        unsafe {
            let _ = result::graph::exec_destroy(self.executable);
            let _ = result::graph::destroy(self.graph);
        }
    }
}
