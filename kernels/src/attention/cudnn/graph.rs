//! An operation graph: tensors of four dims, products and element-wise operations on them, and where the memory of each
//! tensor that is not virtual comes from. It may not know attention.

use std::rc::Rc;

use super::CudnnError;
use super::descriptor::{DataType, Descriptor, Kind, Mode, Name, Reduction};
use super::library::Library;

/// Alignment that kernels may count on, bytes.
pub(super) const ALIGNMENT: u64 = 16;

/// Where pieces of scratch memory start, bytes.
const PIECE: usize = 256;

/// Where a tensor's memory is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Source {
    /// In an operand of the op, some bytes from its start.
    Operand(&'static str, u64),
    /// In the scratch memory, some bytes from its start.
    Scratch(u64),
    /// On the host: a value read when the graph is enqueued.
    Scalar(f32),
}

/// A tensor of a [`Graph`]. The strides of a virtual one, which has no memory, are those of the dense tensor.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tensor {
    index: usize,
    dims: [i64; 4],
}

/// Strides of the dense tensor, row-major, in elements.
pub(super) const fn dense(dims: [i64; 4]) -> [i64; 4] {
    [dims[1] * dims[2] * dims[3], dims[2] * dims[3], dims[3], 1]
}

/// With its last two dims, or strides, exchanged.
pub(super) const fn transposed(of: [i64; 4]) -> [i64; 4] {
    [of[0], of[1], of[3], of[2]]
}

/// A graph being written. An operation is added after those it reads from.
#[derive(Debug)]
pub(super) struct Graph {
    library: Rc<Library>,
    tensors: Vec<Descriptor>,
    operations: Vec<Descriptor>,
    /// What operations are described by; cuDNN asks that it outlive them.
    attributes: Vec<Descriptor>,
    bindings: Vec<(i64, Source)>,
    scratch: usize,
}

impl Graph {
    pub(super) fn new(library: &Rc<Library>) -> Self {
        let library = Rc::clone(library);
        let (tensors, operations, attributes) = (Vec::new(), Vec::new(), Vec::new());
        Self { library, tensors, operations, attributes, bindings: Vec::new(), scratch: 0 }
    }

    /// The graph as cuDNN takes it. `self` must outlive what is returned.
    pub(super) fn finish(&self) -> Result<Descriptor, CudnnError> {
        Descriptor::new(&self.library, Kind::OperationGraph, |graph| {
            graph.set_inners(Name::GraphOperations, &self.operations)
        })
    }

    /// The tensors that have memory, by their ids.
    pub(super) fn bindings(&self) -> &[(i64, Source)] {
        &self.bindings
    }

    /// Scratch memory of its tensors, bytes.
    pub(super) const fn scratch(&self) -> usize {
        self.scratch
    }

    fn add(
        &mut self,
        dims: [i64; 4],
        strides: [i64; 4],
        dtype: DataType,
        source: Option<Source>,
    ) -> Result<Tensor, CudnnError> {
        let index = self.tensors.len();
        let id = i64::try_from(index + 1).unwrap_or(i64::MAX);
        let tensor = Descriptor::new(&self.library, Kind::Tensor, |tensor| {
            tensor.set(Name::TensorDataType, &[dtype])?;
            tensor.set(Name::TensorDimensions, &dims)?;
            tensor.set(Name::TensorStrides, &strides)?;
            tensor.set(Name::TensorId, &[id])?;
            tensor.set(Name::TensorAlignment, &[ALIGNMENT.cast_signed()])?;
            tensor.set(Name::TensorIsVirtual, &[source.is_none()])?;
            tensor.set(Name::TensorIsByValue, &[matches!(source, Some(Source::Scalar(_)))])
        })?;
        self.tensors.push(tensor);
        self.bindings.extend(source.map(|source| (id, source)));
        Ok(Tensor { index, dims })
    }

    /// A tensor in one of the op's operands; strides in elements.
    pub(super) fn operand(
        &mut self,
        dims: [i64; 4],
        strides: [i64; 4],
        dtype: DataType,
        (name, offset): (&'static str, u64),
    ) -> Result<Tensor, CudnnError> {
        self.add(dims, strides, dtype, Some(Source::Operand(name, offset)))
    }

    /// A dense fp32 tensor in scratch memory.
    pub(super) fn scratch_tensor(&mut self, dims: [i64; 4]) -> Result<Tensor, CudnnError> {
        let bytes = dims.iter().map(|&dim| usize::try_from(dim).unwrap_or_default()).product::<usize>() * 4;
        let source = Source::Scratch(self.scratch as u64);
        self.scratch = (self.scratch + bytes).next_multiple_of(PIECE);
        self.add(dims, dense(dims), DataType::Float, Some(source))
    }

    /// A number, the same for all elements.
    pub(super) fn scalar(&mut self, value: f32) -> Result<Tensor, CudnnError> {
        self.add([1; 4], [1; 4], DataType::Float, Some(Source::Scalar(value)))
    }

    /// A dense tensor that never reaches memory.
    pub(super) fn virtual_tensor(&mut self, dims: [i64; 4], dtype: DataType) -> Result<Tensor, CudnnError> {
        self.add(dims, dense(dims), dtype, None)
    }

    /// `y = mode(x, b)`, or the index along an axis, or `t ? x : b`: whatever the mode reads. Operands of extent 1 are
    /// repeated.
    fn pointwise_into(
        &mut self,
        mode: Mode,
        precision: DataType,
        axis: Option<i64>,
        inputs: &[(Name, Tensor)],
        y: Tensor,
    ) -> Result<Tensor, CudnnError> {
        let how = Descriptor::new(&self.library, Kind::Pointwise, |how| {
            how.set(Name::PointwiseMode, &[mode])?;
            how.set(Name::PointwiseMathPrecision, &[precision])?;
            axis.map_or(Ok(()), |axis| how.set(Name::PointwiseAxis, &[axis]))
        })?;
        let operation = Descriptor::new(&self.library, Kind::OperationPointwise, |operation| {
            operation.set_inner(Name::OperationPointwise, &how)?;
            for (name, tensor) in inputs {
                operation.set_inner(*name, &self.tensors[tensor.index])?;
            }
            operation.set_inner(Name::OperationPointwiseY, &self.tensors[y.index])
        })?;
        self.attributes.push(how);
        self.operations.push(operation);
        Ok(y)
    }

    /// `y = mode(x)` in fp32, into a tensor that is there.
    pub(super) fn unary_into(&mut self, mode: Mode, x: Tensor, y: Tensor) -> Result<Tensor, CudnnError> {
        self.pointwise_into(mode, DataType::Float, None, &[(Name::OperationPointwiseX, x)], y)
    }

    /// `mode(x)` in fp32.
    pub(super) fn unary(&mut self, mode: Mode, x: Tensor) -> Result<Tensor, CudnnError> {
        let y = self.virtual_tensor(x.dims, DataType::Float)?;
        self.unary_into(mode, x, y)
    }

    /// `y = mode(x, b)` in fp32, into a tensor that is there.
    pub(super) fn binary_into(&mut self, mode: Mode, x: Tensor, b: Tensor, y: Tensor) -> Result<Tensor, CudnnError> {
        let inputs = [(Name::OperationPointwiseX, x), (Name::OperationPointwiseB, b)];
        self.pointwise_into(mode, DataType::Float, None, &inputs, y)
    }

    /// `mode(x, b)` in fp32.
    pub(super) fn binary(&mut self, mode: Mode, x: Tensor, b: Tensor) -> Result<Tensor, CudnnError> {
        let y = self.virtual_tensor(x.dims, DataType::Float)?;
        self.binary_into(mode, x, b, y)
    }

    /// `x` where its index along `row` is at least its index along `column`, elsewhere the number `fill`.
    pub(super) fn lower_triangle(
        &mut self,
        x: Tensor,
        (row, column): (i64, i64),
        fill: Tensor,
    ) -> Result<Tensor, CudnnError> {
        let index = |graph: &mut Self, axis| {
            let y = graph.virtual_tensor(x.dims, DataType::Int32)?;
            graph.pointwise_into(Mode::Index, DataType::Int32, Some(axis), &[(Name::OperationPointwiseX, x)], y)
        };
        let (row, column) = (index(self, row)?, index(self, column)?);
        let keep = self.virtual_tensor(x.dims, DataType::Boolean)?;
        let inputs = [(Name::OperationPointwiseX, row), (Name::OperationPointwiseB, column)];
        let keep = self.pointwise_into(Mode::GreaterOrEqual, DataType::Boolean, None, &inputs, keep)?;
        let y = self.virtual_tensor(x.dims, DataType::Float)?;
        let inputs =
            [(Name::OperationPointwiseX, x), (Name::OperationPointwiseB, fill), (Name::OperationPointwiseT, keep)];
        self.pointwise_into(Mode::Select, DataType::Float, None, &inputs, y)
    }

    /// `c = a · b` over the last two dims, accumulated in fp32.
    pub(super) fn product_into(&mut self, a: Tensor, b: Tensor, c: Tensor) -> Result<Tensor, CudnnError> {
        let how =
            Descriptor::new(&self.library, Kind::Matmul, |how| how.set(Name::MatmulComputeType, &[DataType::Float]))?;
        let operation = Descriptor::new(&self.library, Kind::OperationMatmul, |operation| {
            operation.set_inner(Name::OperationMatmulA, &self.tensors[a.index])?;
            operation.set_inner(Name::OperationMatmulB, &self.tensors[b.index])?;
            operation.set_inner(Name::OperationMatmulC, &self.tensors[c.index])?;
            operation.set_inner(Name::OperationMatmul, &how)
        })?;
        self.attributes.push(how);
        self.operations.push(operation);
        Ok(c)
    }

    /// `a · b` over the last two dims, in fp32.
    pub(super) fn product(&mut self, a: Tensor, b: Tensor) -> Result<Tensor, CudnnError> {
        let c = self.virtual_tensor([a.dims[0], a.dims[1], a.dims[2], b.dims[3]], DataType::Float)?;
        self.product_into(a, b, c)
    }

    /// `x` reduced along its last dim, in fp32.
    pub(super) fn reduction(&mut self, operator: Reduction, x: Tensor) -> Result<Tensor, CudnnError> {
        let y = self.virtual_tensor([x.dims[0], x.dims[1], x.dims[2], 1], DataType::Float)?;
        let how = Descriptor::new(&self.library, Kind::Reduction, |how| {
            how.set(Name::ReductionOperator, &[operator])?;
            how.set(Name::ReductionComputeType, &[DataType::Float])
        })?;
        let operation = Descriptor::new(&self.library, Kind::OperationReduction, |operation| {
            operation.set_inner(Name::OperationReductionX, &self.tensors[x.index])?;
            operation.set_inner(Name::OperationReductionY, &self.tensors[y.index])?;
            operation.set_inner(Name::OperationReduction, &how)
        })?;
        self.attributes.push(how);
        self.operations.push(operation);
        Ok(y)
    }

    /// `x` with its last two dims exchanged, in a given dtype; `strides` say where its elements lie.
    pub(super) fn transpose(&mut self, x: Tensor, strides: [i64; 4], dtype: DataType) -> Result<Tensor, CudnnError> {
        let y = self.add(transposed(x.dims), strides, dtype, None)?;
        let operation = Descriptor::new(&self.library, Kind::OperationReshape, |operation| {
            operation.set_inner(Name::OperationReshapeX, &self.tensors[x.index])?;
            operation.set_inner(Name::OperationReshapeY, &self.tensors[y.index])
        })?;
        self.operations.push(operation);
        Ok(y)
    }
}
