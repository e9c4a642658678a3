//! What a fusion means: its parts, one after the other, through temporaries of the dtypes they always had.

use super::{Fused, Local};
use crate::io::{Io, Slot};
use crate::op::{Access, Reference};
use crate::real::Real;
use crate::tensor::Buffer;

impl Reference for Fused {
    fn run<R: Real>(&self, io: &mut Io<'_, '_, R>) {
        let mut external = io.take_slots();
        let mut hidden: Vec<Buffer<R>> =
            self.hidden.iter().map(|hidden| Buffer::zeros(hidden.dtype, hidden.shape.iter().product())).collect();
        for part in &self.parts {
            let params = part.op.signature();
            let mut lent: Vec<Option<Slot<'_, R>>> = params.iter().map(|_| None).collect();
            // Written operands are lent first; what remains may be read by any number of parameters.
            let written = |local: Local| {
                let found =
                    params.iter().zip(&part.operands).position(|(p, l)| p.access != Access::Read && *l == local);
                found.into_iter()
            };
            let mut readable_external: Vec<Option<&Slot<'_, R>>> = Vec::with_capacity(external.len());
            for (index, slot) in external.iter_mut().enumerate() {
                match written(Local::External(index)).next() {
                    Some(param) => {
                        lent[param] = slot.reborrow_mut();
                        readable_external.push(None);
                    }
                    None => readable_external.push(Some(slot)),
                }
            }
            let mut readable_hidden: Vec<Option<&Buffer<R>>> = Vec::with_capacity(hidden.len());
            for (index, buffer) in hidden.iter_mut().enumerate() {
                match written(Local::Hidden(index)).next() {
                    Some(param) => {
                        lent[param] = Some(Slot::Write(buffer.view_mut()));
                        readable_hidden.push(None);
                    }
                    None => readable_hidden.push(Some(buffer)),
                }
            }
            let slots = part.operands.iter().zip(lent).map(|(local, lent)| {
                lent.or_else(|| match *local {
                    Local::External(index) => readable_external[index].and_then(Slot::reborrow),
                    Local::Hidden(index) => readable_hidden[index].map(|buffer| Slot::Read(buffer.view())),
                })
                // `check` has shown that every operand is there and is not both read and written by one part.
                .unwrap_or(Slot::Taken)
            });
            part.op.run(&mut Io::new(&params, slots.collect()));
        }
    }
}
