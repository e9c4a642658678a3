//! Descriptors of cuDNN's backend API: made, filled with typed attributes and finalised in one go, destroyed on drop.
//!
//! Numbers are those of cudnn_graph.h, which keeps them from version to version. It may not know what a graph computes.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::fmt;
use std::ptr;
use std::rc::Rc;

use super::CudnnError;
use super::library::{Library, Raw};

/// `cudnnBackendDescriptorType_t`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub(super) enum Kind {
    Pointwise = 0,
    Engine = 2,
    EngineConfig = 3,
    EngineHeuristic = 4,
    ExecutionPlan = 5,
    KnobChoice = 7,
    OperationPointwise = 13,
    OperationGraph = 15,
    VariantPack = 16,
    Tensor = 17,
    Matmul = 18,
    OperationMatmul = 19,
    Reduction = 21,
    OperationReduction = 22,
    OperationReshape = 31,
    DeviceProperties = 38,
}

/// `cudnnBackendAttributeName_t`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub(super) enum Name {
    PointwiseMode = 0,
    PointwiseMathPrecision = 1,
    PointwiseAxis = 9,
    HeuristicMode = 200,
    HeuristicOperationGraph = 201,
    HeuristicResults = 202,
    HeuristicDeviceProperties = 204,
    ConfigEngine = 300,
    ConfigKnobChoices = 302,
    PlanEngineConfig = 401,
    PlanWorkspaceSize = 402,
    PlanDeviceProperties = 407,
    KnobType = 600,
    KnobValue = 601,
    OperationPointwise = 750,
    OperationPointwiseX = 751,
    OperationPointwiseB = 752,
    OperationPointwiseY = 753,
    OperationPointwiseT = 758,
    GraphOperations = 801,
    TensorAlignment = 900,
    TensorDataType = 901,
    TensorDimensions = 902,
    TensorStrides = 903,
    TensorId = 906,
    TensorIsVirtual = 907,
    TensorIsByValue = 908,
    PackIds = 1000,
    PackPointers = 1001,
    PackWorkspace = 1003,
    EngineIndex = 1301,
    MatmulComputeType = 1500,
    OperationMatmulA = 1520,
    OperationMatmulB = 1521,
    OperationMatmulC = 1522,
    OperationMatmul = 1523,
    ReductionOperator = 1600,
    ReductionComputeType = 1601,
    OperationReductionX = 1610,
    OperationReductionY = 1611,
    OperationReduction = 1612,
    OperationReshapeX = 2200,
    OperationReshapeY = 2201,
    DevicePropertiesHandle = 2701,
}

/// A Rust type that one of cuDNN's attribute types has the layout of.
pub(super) trait Attribute: Copy {
    /// `cudnnBackendAttributeType_t`.
    const TYPE: i32;
}

macro_rules! attribute {
    ($($name:ty = $value:literal,)*) => { $(impl Attribute for $name { const TYPE: i32 = $value; })* };
}

/// `cudnnDataType_t`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub(super) enum DataType {
    Float = 0,
    Int32 = 4,
    Bfloat16 = 9,
    Boolean = 11,
}

/// `cudnnPointwiseMode_t`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub(super) enum Mode {
    Add = 0,
    Mul = 1,
    Div = 6,
    Sub = 9,
    Exp = 13,
    Log = 15,
    Identity = 21,
    GreaterOrEqual = 303,
    Index = 501,
    Select = 601,
}

/// `cudnnReduceTensorOp_t`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub(super) enum Reduction {
    Add = 0,
    Max = 3,
}

/// `cudnnBackendHeurMode_t`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub(super) enum Heuristic {
    Fallback = 2,
    A = 3,
}

/// `cudnnBackendKnobType_t`: read, so any number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub(super) struct Knob(pub(super) i32);

/// A descriptor inside another.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub(super) struct Inner(Raw);

/// A cuDNN handle.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub(super) struct HandlePointer(pub(super) Raw);

/// Memory, of the device or, for scalars passed by value, of the host.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub(super) struct Memory(pub(super) *mut c_void);

attribute! {
    HandlePointer = 0, DataType = 1, bool = 2, i64 = 3, Memory = 6, Heuristic = 8, Knob = 9, Mode = 14,
    Inner = 15, Reduction = 18,
}

/// One descriptor. Nothing changes it once [`Descriptor::new`] has finalised it.
pub(super) struct Descriptor {
    library: Rc<Library>,
    raw: Raw,
}

impl fmt::Debug for Descriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Descriptor").field(&self.raw).finish()
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: made once by `empty`, destroyed once here; finalised descriptors keep what they need of inner ones.
        unsafe { (self.library.functions.destroy_descriptor)(self.raw) };
    }
}

impl Descriptor {
    /// Makes one, lets `fill` set its attributes, finalises it.
    pub(super) fn new(
        library: &Rc<Library>,
        kind: Kind,
        fill: impl FnOnce(&mut Self) -> Result<(), CudnnError>,
    ) -> Result<Self, CudnnError> {
        let mut descriptor = Self::empty(library, kind)?;
        fill(&mut descriptor)?;
        // SAFETY: the descriptor is live.
        let status = unsafe { (library.functions.finalize)(descriptor.raw) };
        library.checked("cudnnBackendFinalize", status)?;
        Ok(descriptor)
    }

    fn empty(library: &Rc<Library>, kind: Kind) -> Result<Self, CudnnError> {
        let mut raw = ptr::null_mut();
        // SAFETY: cuDNN writes the new descriptor to the live pointer.
        let status = unsafe { (library.functions.create_descriptor)(kind as i32, &raw mut raw) };
        library.checked("cudnnBackendCreateDescriptor", status)?;
        Ok(Self { library: Rc::clone(library), raw })
    }

    /// Sets an attribute to one value or several.
    pub(super) fn set<T: Attribute>(&mut self, name: Name, values: &[T]) -> Result<(), CudnnError> {
        let count = i64::try_from(values.len()).unwrap_or(i64::MAX);
        // SAFETY: `T` has the layout of the attribute type it names, and `count` of them are live.
        let status = unsafe {
            (self.library.functions.set_attribute)(self.raw, name as i32, T::TYPE, count, values.as_ptr().cast())
        };
        self.library.checked("cudnnBackendSetAttribute", status)
    }

    /// Sets an attribute to another descriptor.
    pub(super) fn set_inner(&mut self, name: Name, inner: &Self) -> Result<(), CudnnError> {
        self.set(name, &[Inner(inner.raw)])
    }

    /// Sets an attribute to several descriptors.
    pub(super) fn set_inners(&mut self, name: Name, inners: &[Self]) -> Result<(), CudnnError> {
        let inners: Vec<Inner> = inners.iter().map(|inner| Inner(inner.raw)).collect();
        self.set(name, &inners)
    }

    fn get_into<T: Attribute>(&self, name: Name, values: &mut [T]) -> Result<usize, CudnnError> {
        let (asked, mut found) = (i64::try_from(values.len()).unwrap_or(i64::MAX), 0);
        let out = if values.is_empty() { ptr::null_mut() } else { values.as_mut_ptr().cast() };
        // SAFETY: cuDNN writes at most `asked` values of `T`'s layout.
        let status = unsafe {
            (self.library.functions.get_attribute)(self.raw, name as i32, T::TYPE, asked, &raw mut found, out)
        };
        self.library.checked("cudnnBackendGetAttribute", status)?;
        Ok(usize::try_from(found).unwrap_or_default())
    }

    /// Reads an attribute of one value.
    pub(super) fn get_one<T: Attribute>(&self, name: Name, fill: T) -> Result<T, CudnnError> {
        let mut value = [fill];
        self.get_into(name, &mut value)?;
        Ok(value[0])
    }

    /// How many descriptors are inside.
    pub(super) fn count_inners(&self, name: Name) -> Result<usize, CudnnError> {
        self.get_into::<Inner>(name, &mut [])
    }

    /// Reads the descriptors inside, which are of one kind: at most `most` of them. ([`Self::count_inners`] of knobs is 0.)
    pub(super) fn inners(&self, name: Name, kind: Kind, most: usize) -> Result<Vec<Self>, CudnnError> {
        if most == 0 {
            return Ok(Vec::new());
        }
        // cuDNN fills descriptors that the caller made.
        let mut inners = (0..most).map(|_| Self::empty(&self.library, kind)).collect::<Result<Vec<_>, _>>()?;
        let mut raws: Vec<Inner> = inners.iter().map(|inner| Inner(inner.raw)).collect();
        let found = self.get_into(name, &mut raws)?;
        inners.truncate(found);
        Ok(inners)
    }

    pub(super) const fn raw(&self) -> Raw {
        self.raw
    }

    pub(super) const fn library(&self) -> &Rc<Library> {
        &self.library
    }
}
