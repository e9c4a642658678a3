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
    /// The nodes that record events, in order.
    marks: Vec<sys::CUgraphNode>,
    // What the nodes' arguments point into.
    ops: Rc<[Prepared]>,
    _context: Rc<Context>,
}

impl Gpu {
    /// Captures work as a graph. Before each op whose index is in `marks` (ascending; the number of ops is behind the last)
    /// it records an event, which each launch names. Nothing is run.
    ///
    /// # Errors
    /// If some call cannot be captured; the stream is then as before.
    pub fn capture(&self, ops: &Rc<[Prepared]>, marks: &[usize]) -> Result<Graph, GpuError> {
        let failed = |call: &'static str| move |error| GpuError::driver(call, error);
        let stand_ins = marks.iter().map(|_| Event::new(self)).collect::<Result<Vec<_>, _>>()?;
        // Libraries load their kernels when they are first launched, which the stricter modes forbid while one captures.
        let mode = sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: the stream is live; what is enqueued until the end of the capture becomes nodes and does not run.
        unsafe { result::stream::begin_capture(self.stream, mode) }.map_err(failed("cuStreamBeginCapture"))?;
        let enqueued = self.enqueue_marked(ops, marks, &mut |at| stand_ins[at].record_in_graph(self));
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
        let (ops, _context) = (Rc::clone(ops), Rc::clone(self.context()));
        let mut captured = Graph { graph, executable, marks: Vec::new(), ops, _context };
        captured.marks = captured.find(&stand_ins)?;
        // SAFETY: both are live. What is uploaded now is not uploaded by the first launch.
        unsafe { result::graph::upload(captured.executable, self.stream) }.map_err(failed("cuGraphUpload"))?;
        Ok(captured)
    }

    /// Launches a graph; its marks are recorded into `events`, one for each.
    ///
    /// # Errors
    /// If their number differs from the marks', the driver refuses, or work before it has failed.
    pub fn launch(&self, graph: &Graph, events: &[&Event]) -> Result<(), GpuError> {
        if events.len() != graph.marks.len() {
            let what = format!("{} events for {} marks", events.len(), graph.marks.len());
            return Err(GpuError::Operand { op: "graph", operand: "events".to_owned(), what });
        }
        for (node, event) in graph.marks.iter().zip(events) {
            // SAFETY: node and executable belong together, the event is live; launches under way keep their own events.
            unsafe { sys::cuGraphExecEventRecordNodeSetEvent(graph.executable, *node, event.raw()) }
                .result()
                .map_err(|error| GpuError::driver("cuGraphExecEventRecordNodeSetEvent", error))?;
        }
        // SAFETY: both are live, and the graph holds what its nodes point to.
        unsafe { result::graph::launch(graph.executable, self.stream) }
            .map_err(|error| GpuError::driver("cuGraphLaunch", error))
    }

    /// Enqueues work one by one, and records an event before each op whose index is in `marks`, as a graph would.
    ///
    /// # Errors
    /// If a launch is refused, or work before it has failed.
    pub fn enqueue_all(&self, ops: &[Prepared], marks: &[usize], events: &[&Event]) -> Result<(), GpuError> {
        self.enqueue_marked(ops, marks, &mut |at| events.get(at).map_or(Ok(()), |event| event.record(self)))
    }

    /// Enqueues work; `mark` is told the place of each mark in their list when its turn has come.
    fn enqueue_marked(
        &self,
        ops: &[Prepared],
        marks: &[usize],
        mark: &mut dyn FnMut(usize) -> Result<(), GpuError>,
    ) -> Result<(), GpuError> {
        let mut waiting = marks.iter().enumerate().peekable();
        for (index, op) in ops.iter().enumerate() {
            while let Some((at, _)) = waiting.next_if(|(_, before)| **before <= index) {
                mark(at)?;
            }
            self.enqueue(op)?;
        }
        waiting.try_for_each(|(at, _)| mark(at))
    }
}

impl Graph {
    /// The work that it was captured from.
    #[must_use]
    pub fn ops(&self) -> &[Prepared] {
        &self.ops
    }

    /// The nodes that record these events, in their order.
    fn find(&self, events: &[Event]) -> Result<Vec<sys::CUgraphNode>, GpuError> {
        let failed = |call: &'static str| move |error| GpuError::driver(call, error);
        if events.is_empty() {
            return Ok(Vec::new());
        }
        let mut count = 0;
        // SAFETY: the graph is live; with no place for nodes, the driver writes their number.
        unsafe { sys::cuGraphGetNodes(self.graph, std::ptr::null_mut(), &raw mut count) }
            .result()
            .map_err(failed("cuGraphGetNodes"))?;
        let mut nodes = vec![std::ptr::null_mut(); count];
        // SAFETY: there is room for as many nodes as were counted.
        unsafe { sys::cuGraphGetNodes(self.graph, nodes.as_mut_ptr(), &raw mut count) }
            .result()
            .map_err(failed("cuGraphGetNodes"))?;
        let mut recording = Vec::new();
        for node in nodes {
            let mut kind = sys::CUgraphNodeType_enum::CU_GRAPH_NODE_TYPE_EMPTY;
            // SAFETY: the node is of the live graph, and the place for its kind is live.
            unsafe { sys::cuGraphNodeGetType(node, &raw mut kind) }.result().map_err(failed("cuGraphNodeGetType"))?;
            if kind != sys::CUgraphNodeType_enum::CU_GRAPH_NODE_TYPE_EVENT_RECORD {
                continue;
            }
            let mut event = std::ptr::null_mut();
            // SAFETY: the node records an event, which is written to the live place.
            unsafe { sys::cuGraphEventRecordNodeGetEvent(node, &raw mut event) }
                .result()
                .map_err(failed("cuGraphEventRecordNodeGetEvent"))?;
            recording.push((event, node));
        }
        let node = |wanted: &Event| {
            let found = recording.iter().find(|(event, _)| *event == wanted.raw()).map(|(_, node)| *node);
            let lost =
                || GpuError::Unsupported { op: "graph".to_owned(), what: "an event was not captured".to_owned() };
            found.ok_or_else(lost)
        };
        events.iter().map(node).collect()
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
