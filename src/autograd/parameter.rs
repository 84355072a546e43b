//! A tensor that can be trained: its value, whether it requires a gradient, and the gradient gathered so far.

use super::gradient::{Gradient, Pieces};
use super::in_place::{HalfInPlace, InPlace};
use crate::autograd;
use crate::error::{Error, Result};
use crate::ops::quantised::Quantised;
use candle_core::op::BackpropOp;
use candle_core::{CpuStorage, DType, Device, Storage, Tensor, Var};
use std::any::Any;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock, Weak};

/// A trainable tensor, shared by everyone who holds a clone.
///
/// The value lives in a candle variable from the start, so that freezing and unfreezing, loading and generating cost nothing.
/// On the CPU the gradient is kept in f32 whatever the value's dtype, and its memory is reused from step to step. A quantised
/// parameter is frozen for good: operations read its blocks, and whoever asks for its value gets it dequantised.
#[derive(Clone)]
pub struct Parameter(Arc<Inner>);

struct Inner {
    content: RwLock<Content>,
    requires_grad: AtomicBool,
    /// How often the value was changed.
    revision: AtomicU64,
    gradient: Mutex<Gradient>,
    /// Something made of the value, and the revision that it was made of.
    made: Mutex<Option<(u64, Made)>>,
}

type Made = Arc<dyn Any + Send + Sync>;

#[derive(Clone)]
enum Content {
    Variable(Var),
    /// Blocks, and a variable without elements for those who ask for one.
    Quantised(Arc<Quantised>, Var),
}

/// A reference that does not keep the parameter alive.
#[derive(Clone)]
pub(super) struct WeakParameter(Weak<Inner>);

impl WeakParameter {
    pub(super) fn upgrade(&self) -> Option<Parameter> {
        self.0.upgrade().map(Parameter)
    }
}

impl std::fmt::Debug for Parameter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Parameter({:?}, {:?}, requires_grad: {})", self.dims(), self.dtype(), self.requires_grad())
    }
}

impl Parameter {
    /// A parameter that requires a gradient. A tensor that already is a candle variable is taken as it is, without a copy.
    ///
    /// # Errors
    /// Out of memory on the device.
    pub fn new(tensor: &Tensor) -> Result<Self> {
        Ok(Self::from_var(Var::from_tensor(tensor)?))
    }

    /// A parameter that requires a gradient, from values that it takes over.
    ///
    /// # Errors
    /// `values` has not as many elements as `shape`, or the device is out of memory.
    pub fn from_vec(values: Vec<f32>, shape: &[usize], device: &Device) -> Result<Self> {
        Ok(Self::from_var(Var::from_vec(values, shape, device)?))
    }

    /// A parameter around a candle variable.
    pub fn from_var(var: Var) -> Self {
        Self::from_content(Content::Variable(var), true)
    }

    /// A frozen parameter that stays quantised in memory.
    ///
    /// # Errors
    /// Out of memory.
    pub fn from_quantised(blocks: Quantised) -> Result<Self> {
        let stand_in = Var::zeros(0, DType::F32, &Device::Cpu)?;
        Ok(Self::from_content(Content::Quantised(Arc::new(blocks), stand_in), false))
    }

    fn from_content(content: Content, requires_grad: bool) -> Self {
        let requires_grad = AtomicBool::new(requires_grad);
        let (content, revision, gradient) = (RwLock::new(content), AtomicU64::new(0), Mutex::default());
        Self(Arc::new(Inner { content, requires_grad, revision, gradient, made: Mutex::default() }))
    }

    fn content(&self) -> Content {
        self.0.content.read().unwrap_or_else(|e| e.into_inner()).clone()
    }

    fn set_content(&self, content: Content) {
        *self.0.content.write().unwrap_or_else(|e| e.into_inner()) = content;
        self.changed();
        *self.gradient() = Gradient::default();
    }

    fn changed(&self) {
        self.0.revision.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that a kernel changed the value in place.
    #[cfg(feature = "cuda")]
    pub(crate) fn changed_on_device(&self) {
        self.changed();
    }

    /// A number that grows whenever the value changes: what was computed from the value holds as long as it stays.
    pub fn revision(&self) -> u64 {
        self.0.revision.load(Ordering::Relaxed)
    }

    /// What `make` gave since the value last changed; made now where that is nothing.
    pub(crate) fn made_of_value<T: Send + Sync + 'static>(&self, make: impl FnOnce() -> T) -> Arc<T> {
        let revision = self.revision();
        let mut made = self.0.made.lock().unwrap_or_else(|e| e.into_inner());
        if let Some((of, value)) = &*made
            && *of == revision
            && let Ok(value) = value.clone().downcast::<T>()
        {
            return value;
        }
        let value = Arc::new(make());
        *made = Some((revision, value.clone()));
        value
    }

    /// Gives back the memory of what was made of the value.
    pub(crate) fn forget_made(&self) {
        self.0.made.lock().unwrap_or_else(|e| e.into_inner()).take();
    }

    /// The blocks of a quantised parameter.
    pub fn quantised(&self) -> Option<Arc<Quantised>> {
        match self.content() {
            Content::Quantised(blocks, _) => Some(blocks),
            Content::Variable(_) => None,
        }
    }

    /// The tensor to compute with: a leaf of the graph where a gradient is wanted, else a plain tensor.
    pub fn tensor(&self) -> Tensor {
        if self.tracked() {
            let var = self.var();
            autograd::register(var.id(), WeakParameter(Arc::downgrade(&self.0)));
            var.as_tensor().clone()
        } else {
            self.value()
        }
    }

    /// The value as a plain tensor that shares the parameter's memory; of a quantised parameter a dequantised copy in f32.
    pub fn value(&self) -> Tensor {
        match self.content() {
            Content::Variable(var) => var.as_detached_tensor(),
            Content::Quantised(blocks, _) => {
                let storage = Storage::Cpu(CpuStorage::F32(blocks.to_vec()));
                Tensor::from_storage(storage, blocks.dims().to_vec(), BackpropOp::none(), false)
            }
        }
    }

    /// A tensor of the value's shape and dtype, for those who ask no more: of a quantised parameter not dequantised.
    pub fn outline(&self) -> Tensor {
        let outline = |blocks: &Quantised| Tensor::zeros((), DType::F32, &Device::Cpu)?.broadcast_as(blocks.dims().to_vec());
        match self.quantised().map(|blocks| outline(&blocks)) {
            Some(Ok(outline)) => outline,
            _ => self.value(),
        }
    }

    /// The candle variable; of a quantised parameter one without elements.
    pub fn var(&self) -> Var {
        match self.content() {
            Content::Variable(var) | Content::Quantised(_, var) => var,
        }
    }

    /// Whether an operation has to record this parameter now: it requires a gradient and recording is on.
    pub fn tracked(&self) -> bool {
        self.requires_grad() && autograd::grad_enabled()
    }

    /// Whether a gradient is wanted.
    pub fn requires_grad(&self) -> bool {
        self.0.requires_grad.load(Ordering::Relaxed)
    }

    /// Freezes or frees the parameter; freezing drops its gradient. A quantised parameter stays frozen.
    pub fn set_requires_grad(&self, requires_grad: bool) {
        let requires_grad = requires_grad && self.quantised().is_none();
        self.0.requires_grad.store(requires_grad, Ordering::Relaxed);
        if !requires_grad {
            *self.gradient() = Gradient::default();
        }
    }

    /// The shape.
    pub fn dims(&self) -> Vec<usize> {
        match self.content() {
            Content::Variable(var) => var.dims().to_vec(),
            Content::Quantised(blocks, _) => blocks.dims().to_vec(),
        }
    }

    /// The number of elements.
    pub fn elem_count(&self) -> usize {
        self.dims().iter().product()
    }

    /// The dtype of the value; f32 of a quantised parameter, whose blocks are dequantised to that.
    pub fn dtype(&self) -> DType {
        self.var().dtype()
    }

    /// What the elements are stored as: "f32", "bf16", "q4_1".
    pub fn dtype_name(&self) -> String {
        match self.content() {
            Content::Variable(var) => var.dtype().as_str().to_string(),
            Content::Quantised(blocks, _) => blocks.dtype_name(),
        }
    }

    /// The bytes that the elements take.
    pub fn size_in_bytes(&self) -> usize {
        match self.content() {
            Content::Variable(var) => var.elem_count() * var.dtype().size_in_bytes(),
            Content::Quantised(blocks, _) => blocks.size_in_bytes(),
        }
    }

    /// The device of the value.
    pub fn device(&self) -> Device {
        self.var().device().clone()
    }

    /// Whether both are the same parameter (not: equal values).
    pub fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// A number that is the same for all clones of one parameter.
    pub fn key(&self) -> usize {
        Arc::as_ptr(&self.0) as usize
    }

    /// Overwrites the value, converting the dtype. A quantised parameter becomes an ordinary one in f32, still frozen.
    ///
    /// # Errors
    /// The shapes differ.
    pub fn set(&self, value: &Tensor) -> Result<()> {
        let dims = self.dims();
        if dims != value.dims() {
            return Err(Error::argument(format!(
                "cannot set a parameter of shape {dims:?} to a tensor of shape {:?}",
                value.dims()
            )));
        }
        let var = match self.content() {
            Content::Variable(var) => var,
            Content::Quantised(..) => {
                let value = value.detach().to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
                self.set_content(Content::Variable(Var::from_tensor(&value)?));
                return Ok(());
            }
        };
        let value = value.to_device(var.device())?.to_dtype(var.dtype())?;
        // A view of the parameter itself may be written back: copy first.
        var.set(&value.detach().copy()?)?;
        self.changed();
        Ok(())
    }

    /// Replaces the value's dtype, and forgets the gradient.
    ///
    /// # Errors
    /// The conversion is not supported.
    pub fn set_dtype(&self, dtype: DType) -> Result<()> {
        if self.dtype() != dtype || self.quantised().is_some() {
            self.set_content(Content::Variable(Var::from_tensor(&self.value().to_dtype(dtype)?)?));
        }
        Ok(())
    }

    /// Changes the value in place through `update`, which is given the elements on the CPU.
    ///
    /// # Errors
    /// The value is not contiguous f32 on the CPU.
    pub fn update_f32(&self, update: impl FnMut(&mut [f32])) -> Result<()> {
        self.changed();
        Ok(self.var().inplace_op1(&InPlace::new(update))?)
    }

    /// As [`Self::update_f32`] for a bf16 or f16 value: `update` works on `master`, an f32 copy kept by the caller, which is then
    /// rounded into the value. Where the value was changed by someone else meanwhile, the master follows it first.
    ///
    /// # Errors
    /// The value is not contiguous bf16 or f16 on the CPU, or `master` has another length.
    pub fn update_half(&self, master: &mut [f32], update: impl FnMut(&mut [f32])) -> Result<()> {
        self.changed();
        Ok(self.var().inplace_op1(&HalfInPlace::new(master, update))?)
    }

    /// The gradient gathered since it was last zeroed; a copy, in f32.
    ///
    /// # Errors
    /// Out of memory.
    pub fn grad(&self) -> Result<Option<Tensor>> {
        let mut gradient = self.gradient();
        gradient.settle(&self.dims())?;
        Ok(gradient.to_tensor(&self.dims())?)
    }

    /// Runs `read` on the gradient's elements without copying them; `None` where there is no gradient.
    ///
    /// # Errors
    /// The gradient cannot be read back from its device.
    pub fn with_grad<T>(&self, read: impl FnOnce(&[f32]) -> T) -> Result<Option<T>> {
        let mut gradient = self.gradient();
        gradient.settle(&self.dims())?;
        Ok(gradient.with_elements(read)?)
    }

    /// As [`Self::with_grad`], piece by piece: a gradient that is kept as factors is not multiplied out as a whole.
    ///
    /// # Errors
    /// As [`Self::with_grad`].
    pub fn with_pieces<T>(&self, read: impl FnOnce(&Pieces<'_>) -> T) -> Result<Option<T>> {
        let gradient = self.gradient();
        if !gradient.exists() {
            return Ok(None);
        }
        Ok(Some(gradient.with_pieces(&self.dims(), read)?))
    }

    /// The sum of the squares of the gradient's elements, in f64, on another device than the CPU in f32; 0 where there is no gradient.
    ///
    /// # Errors
    /// As [`Self::with_grad`].
    pub fn grad_square_sum(&self) -> Result<f64> {
        let gradient = self.gradient();
        if gradient.exists() { Ok(gradient.square_sum(&self.dims())?) } else { Ok(0.0) }
    }

    /// Whether a gradient has been gathered.
    pub fn has_grad(&self) -> bool {
        self.gradient().exists()
    }

    /// Forgets the gradient; its memory is kept for the next one.
    pub fn zero_grad(&self) {
        self.gradient().clear();
    }

    /// Forgets the gradient and gives its memory back.
    pub fn drop_grad(&self) {
        *self.gradient() = Gradient::default();
    }

    /// Adds to the gradient. On the CPU the tensor is converted to f32.
    ///
    /// # Errors
    /// The shapes differ.
    pub fn accumulate(&self, addend: &Tensor) -> Result<()> {
        if addend.dims() != self.dims() {
            return Err(Error::Training(format!(
                "a gradient of shape {:?} reached a parameter of shape {:?}",
                addend.dims(),
                self.dims()
            )));
        }
        let dims = self.dims();
        let mut gradient = self.gradient();
        gradient.settle(&dims)?;
        Ok(gradient.add(&dims, addend)?)
    }

    /// Adds to the gradient on a device: `add` is given what is there, if anything, for it to change or to read, and returns the sum. The
    /// gradient keeps the sum's dtype. On the CPU `add` is given nothing, and what it returns is added.
    ///
    /// # Errors
    /// That of `add`, or another shape than the parameter's.
    pub fn accumulate_tensor(&self, add: impl FnOnce(Option<Tensor>) -> candle_core::Result<Tensor>) -> Result<()> {
        let dims = self.dims();
        let mut gradient = self.gradient();
        gradient.settle(&dims)?;
        Ok(gradient.replace(&dims, add)?)
    }

    /// The gradient itself where it is on a device other than the CPU, in the dtype that it has there. Not to be changed but by the
    /// optimiser.
    ///
    /// # Errors
    /// Out of memory.
    pub fn grad_on_device(&self) -> Result<Option<Tensor>> {
        let mut gradient = self.gradient();
        gradient.settle(&self.dims())?;
        Ok(gradient.on_device().cloned())
    }

    /// Adds to the gradient in place on the CPU: `add` gets the f32 buffer and whether it already holds a gradient (to add to)
    /// or only stale memory (to overwrite in full).
    ///
    /// # Errors
    /// The parameter is not on the CPU.
    pub fn accumulate_with(&self, add: impl FnMut(&mut [f32], bool)) -> Result<()> {
        let dims = self.dims();
        let mut gradient = self.gradient();
        gradient.settle(&dims)?;
        Ok(gradient.change(&dims, add)?)
    }

    /// Adds `g^T x` to the gradient of a matrix, with `g` [tokens, rows] and `x` [tokens, columns], by keeping the two; `false`
    /// where that is not worth it: then nothing was added.
    pub fn accumulate_product(&self, g: &[f32], x: &[f32]) -> bool {
        self.gradient().keep_product(&self.dims(), g, x)
    }

    /// Adds row `t` of `g` [tokens, columns] to row `ids[t]` of the gradient of a matrix, as [`Self::accumulate_product`].
    pub fn accumulate_rows(&self, ids: &[u32], g: &[f32]) -> bool {
        self.gradient().keep_rows(&self.dims(), ids, g)
    }

    /// Multiplies the gradient by a factor. This costs nothing here: the factor is applied when the gradient is read.
    pub fn scale_grad(&self, factor: f32) {
        let mut gradient = self.gradient();
        if gradient.exists() {
            gradient.scale(factor);
        }
    }

    fn gradient(&self) -> MutexGuard<'_, Gradient> {
        self.0.gradient.lock().unwrap_or_else(|e| e.into_inner())
    }
}
