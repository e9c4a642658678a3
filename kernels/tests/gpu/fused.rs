//! Fused kernels against their parts on the same GPU, bit for bit, and twice. Each pattern's cases stand in its own file.

use std::collections::HashMap;

use stepwatch_kernels::fused::{Fused, Hidden, Local, Part, Pattern};
use stepwatch_kernels::gpu::{Gpu, Slice, launch};
use stepwatch_kernels::op::{Access, Op, Param};
use stepwatch_kernels::tensor::Buffer;

use crate::compare::{Near, Random, bits, compare, values};

/// A fusion of parts whose operands are named: names in `hidden` become temporaries, all others operands of the whole; those
/// in `unread` need not be written.
pub fn fuse(pattern: Pattern, parts: &[(Op, &[&str])], hidden: &[&str], unread: &[&str]) -> Fused {
    let mut names: Vec<&str> = Vec::new();
    let mut temporaries: Vec<&str> = Vec::new();
    let (params, parts_made, hidden_made) = (Vec::<Param>::new(), Vec::new(), Vec::new());
    let mut fused = Fused { pattern, parts: parts_made, params, hidden: hidden_made, unread: Vec::new() };
    for (op, operands) in parts {
        let signature = op.signature();
        assert_eq!(signature.len(), operands.len(), "operands of {}", op.name());
        let mut locals = Vec::new();
        for (param, name) in signature.into_iter().zip(*operands) {
            if hidden.contains(name) {
                let known = temporaries.iter().position(|known| known == name);
                locals.push(Local::Hidden(known.unwrap_or_else(|| {
                    temporaries.push(name);
                    fused.hidden.push(Hidden { dtype: param.dtype, shape: param.shape.clone() });
                    temporaries.len() - 1
                })));
                continue;
            }
            let known = names.iter().position(|known| known == name);
            if let Some(index) = known {
                let access = &mut fused.params[index].access;
                if *access == Access::Read && param.access != Access::Read {
                    *access = Access::Update;
                }
            }
            locals.push(Local::External(known.unwrap_or_else(|| {
                names.push(name);
                // The part's own name first, so that values fit its meaning.
                fused.params.push(param.clone());
                names.len() - 1
            })));
        }
        fused.parts.push(Part { op: op.clone(), operands: locals });
    }
    fused.unread = unread.iter().filter_map(|name| names.iter().position(|known| known == name)).collect();
    fused
}

/// Runs a fusion twice and its parts one by one on the same operands; everything that somebody reads is near the parts'
/// result, and both runs are equal. A fusion without a kernel of its own fails: it would be compared with itself.
pub fn check_fused(gpu: &Gpu, fused: &Fused, near: Near, ids_below: usize, given: &HashMap<usize, Vec<f32>>) {
    let op = Op::Fused(fused.clone());
    assert_eq!(op.check().err().map(|error| error.to_string()), None);
    assert!(!fused.variants().is_empty(), "no kernel takes {fused:?}");
    let mut random = Random::new(fused.params.iter().map(|p| p.bytes() as u64).sum::<u64>() + 78);
    let operands: Vec<Buffer<f32>> = fused
        .params
        .iter()
        .enumerate()
        .map(|(index, param)| {
            let values = given.get(&index).cloned();
            Buffer::rounded(param.dtype, &values.unwrap_or_else(|| values_of(param, &mut random, ids_below)))
        })
        .collect();
    let whole = |gpu: &Gpu| {
        let slices = upload(gpu, &fused.params, &operands);
        // Twice in one preparation: what a launch leaves behind for itself must serve the next.
        let scratch = gpu.allocate(launch::scratch_bytes(&op)).unwrap();
        gpu.fill(&scratch, 0xff).unwrap();
        let prepared = launch::prepare(gpu, &op, &slices, &scratch).unwrap_or_else(|error| panic!("{error}\n{op:?}"));
        gpu.enqueue(&prepared).unwrap();
        gpu.synchronize().unwrap_or_else(|error| panic!("{error}\n{op:?}"));
        let first = download(gpu, &fused.params, &slices);
        write(gpu, &fused.params, &slices, &operands);
        gpu.enqueue(&prepared).unwrap();
        gpu.synchronize().unwrap_or_else(|error| panic!("{error}\n{op:?}"));
        (first, download(gpu, &fused.params, &slices))
    };
    let (first, second) = whole(gpu);
    let parts = part_by_part(gpu, fused, &operands);
    for (index, param) in fused.params.iter().enumerate() {
        if param.access == Access::Read || fused.unread.contains(&index) {
            continue;
        }
        let what = format!("{:?} operand {index} `{}` {:?}: {fused:?}", fused.pattern, param.name, param.shape);
        assert!(bits(&first[index]) == bits(&second[index]), "two runs differ: {what}");
        compare(&parts[index].view().values(), &first[index].view().values(), near, &what);
    }
}

fn values_of(param: &Param, random: &mut Random, ids_below: usize) -> Vec<f32> {
    values(param, random, ids_below)
}

fn part_by_part(gpu: &Gpu, fused: &Fused, operands: &[Buffer<f32>]) -> Vec<Buffer<f32>> {
    let slices = upload(gpu, &fused.params, operands);
    let bytes = |hidden: &Hidden| hidden.dtype.bytes() * hidden.shape.iter().product::<usize>();
    let hidden: Vec<Slice> = fused.hidden.iter().map(|hidden| gpu.allocate(bytes(hidden)).unwrap()).collect();
    for part in &fused.parts {
        let slice = |local: &Local| match *local {
            Local::External(index) => slices[index].clone(),
            Local::Hidden(index) => hidden[index].clone(),
        };
        let given: Vec<Slice> = part.operands.iter().map(slice).collect();
        let scratch = gpu.allocate(launch::scratch_bytes(&part.op)).unwrap();
        let prepared = launch::prepare(gpu, &part.op, &given, &scratch).unwrap();
        gpu.enqueue(&prepared).unwrap();
        gpu.synchronize().unwrap();
    }
    download(gpu, &fused.params, &slices)
}

fn upload(gpu: &Gpu, params: &[Param], operands: &[Buffer<f32>]) -> Vec<Slice> {
    let slices: Vec<Slice> = params.iter().map(|param| gpu.allocate(param.bytes()).unwrap()).collect();
    write(gpu, params, &slices, operands);
    slices
}

/// Contents of everything; what is written whole is poisoned.
fn write(gpu: &Gpu, params: &[Param], slices: &[Slice], operands: &[Buffer<f32>]) {
    for ((param, slice), buffer) in params.iter().zip(slices).zip(operands) {
        if param.access == Access::Write {
            gpu.fill(slice, 0xff).unwrap();
        } else {
            gpu.upload_tensor(slice, buffer.view()).unwrap();
        }
    }
}

fn download(gpu: &Gpu, params: &[Param], slices: &[Slice]) -> Vec<Buffer<f32>> {
    params.iter().zip(slices).map(|(param, slice)| gpu.download_tensor(slice, param.dtype).unwrap()).collect()
}
