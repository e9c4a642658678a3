//! What a model and a step of it cost on paper: parameters, FLOPs, least bytes and memory, in closed form.
//!
//! Nothing is built, so ten thousand cells can be counted in a moment; the op list's own counts are the sum over what is
//! really launched and are compared with these in the tests.

use serde::Serialize;
use stepwatch_kernels::Dtype;
use stepwatch_kernels::precision::{GemmRecipe, Granularity, Role};

pub use crate::eligibility::{Fp8Linears, LinearLayers, fp8_linears};

use crate::config::{Attention, Compile, Dims, OptimizerState, Pass, StepConfig};
use crate::eligibility::runs_in_fp8;
use crate::linear::{Linear, Product, ROLES};

/// Parameters by part, with the vocabulary as it was given (unpadded).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Count {
    /// The embedding, which is the classifier too.
    pub embedding: u64,
    /// Queries, keys and values of all blocks.
    pub qkv: u64,
    /// The attention's output projections.
    pub output: u64,
    /// Gate and up projections.
    pub gate_up: u64,
    /// Down projections.
    pub down: u64,
    /// Weights of the norms: two a block and the final one.
    pub norms: u64,
    /// All of them.
    pub total: u64,
}

/// Parameters of a model, unpadded.
#[must_use]
pub fn count(dims: &Dims) -> Count {
    let of = |linear: Linear| (linear.inputs(dims) * linear.outputs(dims) * linear.count(dims)) as u64;
    let embedding = (dims.vocab * dims.dim) as u64;
    let (qkv, output, gate_up, down) = (of(Linear::Qkv), of(Linear::Output), of(Linear::GateUp), of(Linear::Down));
    let norms = ((2 * dims.layers + 1) * dims.dim) as u64;
    Count { embedding, qkv, output, gate_up, down, norms, total: embedding + qkv + output + gate_up + down + norms }
}

/// Parameters as stored, with the vocabulary padded for the GEMMs.
#[must_use]
pub fn stored_parameters(dims: &Dims) -> u64 {
    count(&Dims { vocab: dims.padded_vocab(), ..*dims }).total
}

/// What one product of one linear costs, over all blocks.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct GemmCount {
    /// Which linear.
    pub linear: Linear,
    /// Which of its products.
    pub role: Role,
    /// The shape of one product.
    pub product: Product,
    /// How many a step runs.
    pub count: usize,
    /// Whether its operands are FP8.
    pub fp8: bool,
    /// FLOPs a token, all blocks.
    pub flops_per_token: f64,
    /// Least bytes a token, all blocks: each operand read once, the result written once.
    pub bytes_per_token: f64,
}

/// FLOPs and least bytes of all GEMMs of one role.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RoleCount {
    /// Which role.
    pub role: Role,
    /// FLOPs a token.
    pub flops_per_token: f64,
    /// Least bytes a token.
    pub bytes_per_token: f64,
}

/// Bytes of device memory by class. Activations and scratch are estimates: what is placed depends on the passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Weights as GEMMs read them, with their FP8 copies.
    pub weights: u64,
    /// Gradients of all parameters.
    pub gradients: u64,
    /// Moments, and the fp32 master weights where they are kept.
    pub optimizer_states: u64,
    /// What the forward pass keeps for the backward pass.
    pub activations: u64,
    /// Logits, whose gradient takes their place.
    pub logits: u64,
    /// The largest working set of a block's backward pass.
    pub scratch: u64,
    /// The most that lives at once: less than the sum, since gradients come as activations and logits go.
    pub total: u64,
}

impl Memory {
    /// The classes by name, in the order of the documentation, without the total.
    #[must_use]
    pub const fn classes(&self) -> [(&'static str, u64); 6] {
        [
            ("weights", self.weights),
            ("gradients", self.gradients),
            ("optimizer states", self.optimizer_states),
            ("activations", self.activations),
            ("logits", self.logits),
            ("scratch", self.scratch),
        ]
    }
}

/// What one step costs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepCount {
    /// Tokens of a step.
    pub tokens: u64,
    /// FLOPs a token of the GEMMs and the attention: padded vocabulary, the scores a flash kernel makes again in backward
    /// and the forward pass that `recompute` runs again included. Attention counts what causality needs, half of all pairs,
    /// though the naive products compute all of them.
    pub flops_per_token: f64,
    /// FLOPs a token by the reporting convention 6·N + 6·L·d·S (N unpadded; causal attention), the same for every kernel.
    pub model_flops_per_token: f64,
    /// Attention's part of `flops_per_token` in forward.
    pub attention_forward_flops_per_token: f64,
    /// Attention's part of `flops_per_token` in backward.
    pub attention_backward_flops_per_token: f64,
    /// Every product.
    pub gemms: Vec<GemmCount>,
    /// The products summed by role.
    pub by_role: [RoleCount; 3],
    /// Device memory.
    pub memory: Memory,
}

/// Counts one step of a configuration that passed [`crate::eligibility::check_config`].
#[must_use]
pub fn step(config: &StepConfig) -> StepCount {
    let gemms: Vec<GemmCount> =
        Linear::ALL.into_iter().flat_map(|linear| ROLES.map(|role| gemm(config, linear, role))).collect();
    let by_role = ROLES.map(|role| {
        let of_role = || gemms.iter().filter(move |gemm| gemm.role == role);
        RoleCount {
            role,
            flops_per_token: of_role().map(|gemm| gemm.flops_per_token).sum(),
            bytes_per_token: of_role().map(|gemm| gemm.bytes_per_token).sum(),
        }
    });
    let dims = &config.dims;
    let attention = 2.0 * dims.layers as f64 * dims.dim as f64 * config.seq_len as f64;
    // Backward: dV, dP, dQ, dK are two forwards; the flash kernels make the scores again.
    let backward = attention * if config.attention == Attention::Naive { 2.0 } else { 2.5 };
    let again = if config.recompute {
        let blocks = gemms.iter().filter(|gemm| gemm.role == Role::Forward && gemm.linear != Linear::Head);
        blocks.map(|gemm| gemm.flops_per_token).sum::<f64>() + attention
    } else {
        0.0
    };
    StepCount {
        tokens: config.tokens() as u64,
        flops_per_token: by_role.iter().map(|role| role.flops_per_token).sum::<f64>() + attention + backward + again,
        model_flops_per_token: model_flops_per_token(dims, config.seq_len),
        attention_forward_flops_per_token: attention,
        attention_backward_flops_per_token: backward,
        gemms,
        by_role,
        memory: memory(config),
    }
}

/// FLOPs a token by the reporting convention 6·N + 6·L·d·S.
#[must_use]
pub fn model_flops_per_token(dims: &Dims, seq_len: usize) -> f64 {
    6.0 * count(dims).total as f64 + 6.0 * dims.layers as f64 * dims.dim as f64 * seq_len as f64
}

fn gemm(config: &StepConfig, linear: Linear, role: Role) -> GemmCount {
    let tokens = config.tokens();
    let product = linear.product(&config.dims, tokens, role);
    let count = linear.count(&config.dims);
    let fp8 = runs_in_fp8(config, linear) && matches!(config.precision.recipe(role), GemmRecipe::Fp8 { .. });
    let result = config.precision.activation().bytes() as f64;
    let operand = if fp8 { Dtype::E4m3.bytes() as f64 } else { result };
    let Product { m, n, k } = product;
    let (m, n, k) = (m as f64, n as f64, k as f64);
    let per_token = count as f64 / tokens as f64;
    GemmCount {
        linear,
        role,
        product,
        count,
        fp8,
        flops_per_token: product.flops() * per_token,
        bytes_per_token: ((m * k + n * k) * operand + m * n * result) * per_token,
    }
}

/// Whether the configuration asks for a pass.
fn asks_for(config: &StepConfig, pass: Pass) -> bool {
    match &config.compile {
        Compile::None => false,
        Compile::Full => true,
        Compile::Passes(passes) => passes.contains(&pass),
    }
}

fn memory(config: &StepConfig) -> Memory {
    let dims = &config.dims;
    let activation = config.precision.activation().bytes() as u64;
    let tokens = config.tokens() as u64;
    let stored = stored_parameters(dims);
    let fp8_weights: u64 = Linear::ALL
        .into_iter()
        .filter(|linear| runs_in_fp8(config, *linear))
        .map(|linear| (linear.inputs(dims) * linear.outputs(dims) * linear.count(dims)) as u64)
        .sum();
    // Compiled, the cast copies of both layouts live from one optimiser to the next; else one weight's at a time.
    let copies = if asks_for(config, Pass::Layout) { 2 * fp8_weights } else { 0 };
    let states = match (config.optimizer_state, activation) {
        (OptimizerState::Bf16, _) => 2 * 2,
        (OptimizerState::Fp32, 4) => 4 + 4,
        (OptimizerState::Fp32, _) => 4 + 4 + 4,
    };
    let (saved, layers) = (saved_per_token(config), dims.layers as u64);
    let dim = dims.dim as u64 * activation;
    let kept = tokens * layers * if config.recompute { dim } else { saved };
    // Input, output and row statistics of the final norm.
    let activations = kept + tokens * (2 * dim + 4);
    // The gradient of the logits takes their place; what an FP8 head casts of it stands beside them.
    let logits = tokens * dims.padded_vocab() as u64 * activation;
    let cast = if runs_in_fp8(config, Linear::Head) { logits / activation } else { 0 };
    // Uncompiled, tensor-wide casts of the weights wait for their transposes in backward.
    let waiting = if scales_tensors(config) && !asks_for(config, Pass::Layout) { fp8_weights } else { 0 };
    let scratch = waiting + tokens * (scratch_per_token(config) + if config.recompute { saved } else { 0 });
    let (weights, gradients, optimizer_states) = (stored * activation + copies, stored * activation, stored * states);
    let embedding = (dims.padded_vocab() * dims.dim) as u64 * activation;
    let at_the_loss = activations + logits + cast + embedding + tokens * dim + waiting;
    let at_the_last_block = activations + embedding + scratch;
    let at_the_first_block = kept / layers + gradients + scratch - waiting;
    let passing = at_the_loss.max(at_the_last_block).max(at_the_first_block);
    let total = weights + optimizer_states + passing;
    Memory { weights, gradients, optimizer_states, activations, logits, scratch, total }
}

/// Whether one scale covers a whole operand of the weight gradient.
fn scales_tensors(config: &StepConfig) -> bool {
    match config.precision.recipe(Role::WeightGradient) {
        GemmRecipe::Fp8 { a, .. } => a.granularity == Granularity::Tensor,
        GemmRecipe::Plain(_) => false,
    }
}

/// Bytes a token that one block keeps for its backward pass.
fn saved_per_token(config: &StepConfig) -> u64 {
    let (dim, ffn) = (config.dims.dim as u64, config.dims.ffn as u64);
    let heads = config.dims.heads as u64;
    let activation = config.precision.activation().bytes() as u64;
    // The inputs of the linears: both norms' outputs and the SwiGLU product; the attention's output is kept for itself.
    let (norms, h) = (2 * dim, ffn);
    let layout = asks_for(config, Pass::Layout) && !config.recompute;
    // Tensor-wide scales: backward transposes the cast operand; finer ones cast the original again along the other axis,
    // compiled in the forward pass already.
    // Compiled, SwiGLU's backward makes the product again: nothing of it is kept, but in bf16 and fp32, where its forward launch
    // makes nothing but what is kept.
    let h = if layout && asks_for(config, Pass::Fusion) && config.precision.is_fp8() { 0 } else { h };
    let operands = if scales_tensors(config) {
        norms + h + dim
    } else if layout && !matches!(config.precision.recipe(Role::WeightGradient), GemmRecipe::Plain(_)) {
        norms + h
    } else {
        (norms + h) * activation
    };
    // Block input, middle of the residual stream, rotated QKV, attention output; gate and up; two rows of norm statistics.
    let stream = (2 * dim + 3 * dim + dim + 2 * ffn) * activation + 2 * 4;
    let attention = match config.attention {
        Attention::Naive => heads * config.seq_len as u64 * activation,
        Attention::Flash | Attention::Cudnn => heads * 4,
    };
    operands + stream + attention
}

/// Bytes a token of the largest working set in a block's backward pass: around SwiGLU, or the scores of naive attention.
fn scratch_per_token(config: &StepConfig) -> u64 {
    let (dim, ffn) = (config.dims.dim as u64, config.dims.ffn as u64);
    let activation = config.precision.activation().bytes() as u64;
    let swiglu = (ffn + 2 * ffn + 2 * dim) * activation;
    let scores = match config.attention {
        Attention::Naive => 2 * config.dims.heads as u64 * config.seq_len as u64 * activation,
        Attention::Flash | Attention::Cudnn => dim * 4,
    };
    let casts = if config.precision.is_fp8() { 2 * 2 * ffn } else { 0 };
    swiglu.max(scores + 6 * dim * activation) + casts
}

#[cfg(test)]
mod tests {
    use stepwatch_kernels::Precision;

    use super::*;
    use crate::config::{Head, PRESETS, preset};

    fn config(name: &str) -> StepConfig {
        StepConfig {
            precision: Precision::Bf16,
            attention: Attention::Flash,
            ..StepConfig::example(preset(name).unwrap(), 16, 2048)
        }
    }

    fn close(found: f64, expected: f64, within: f64) {
        assert!((found / expected - 1.0).abs() < within, "found {found}, expected {expected}");
    }

    #[test]
    fn parameters_of_454m_by_part() {
        assert_eq!(
            count(&preset("454m").unwrap()),
            Count {
                embedding: 50257 * 1024,
                qkv: 24 * 3 * 1024 * 1024,
                output: 24 * 1024 * 1024,
                gate_up: 24 * 2 * 1024 * 4096,
                down: 24 * 1024 * 4096,
                norms: 49 * 1024,
                total: 454_166_528,
            }
        );
    }

    #[test]
    fn presets_have_the_sizes_of_the_contract() {
        let totals = [147_776, 4_262_144, 353_355_520, 454_166_528, 1_176_735_744, 2_152_079_360];
        for ((name, dims), total) in PRESETS.into_iter().zip(totals) {
            assert_eq!(count(&dims).total, total, "{name}");
        }
        // 47 more rows of 1024.
        assert_eq!(stored_parameters(&preset("454m").unwrap()), 454_166_528 + 47 * 1024);
    }

    #[test]
    fn flops_of_454m_are_those_worked_by_hand() {
        let count = step(&config("454m"));
        let blocks: f64 =
            count.gemms.iter().filter(|gemm| gemm.linear != Linear::Head).map(|gemm| gemm.flops_per_token).sum();
        close(blocks, 2415.9e6, 1e-4);
        let head: f64 =
            count.gemms.iter().filter(|gemm| gemm.linear == Linear::Head).map(|gemm| gemm.flops_per_token).sum();
        close(head, 309.1e6, 1e-3);
        close(count.attention_forward_flops_per_token, 100.7e6, 1e-3);
        close(count.attention_backward_flops_per_token, 251.7e6, 1e-3);
        close(count.flops_per_token, 3.077e9, 1e-3);
        close(count.flops_per_token * count.tokens as f64, 100.84e12, 1e-3);
        // 6·454,166,528 + 6·24·1024·2048.
        assert_eq!(count.model_flops_per_token, 2_724_999_168.0 + 301_989_888.0);
        for role in &count.by_role {
            close(role.flops_per_token, (blocks + head) / 3.0, 1e-9);
        }
    }

    #[test]
    fn recompute_runs_the_blocks_forward_once_more_and_keeps_their_inputs() {
        let (off, on) = (step(&config("454m")), step(&StepConfig { recompute: true, ..config("454m") }));
        close(on.flops_per_token - off.flops_per_token, 2.0 * 402_653_184.0 + 100.66e6, 1e-3);
        assert!(on.memory.activations * 5 < off.memory.activations);
    }

    #[test]
    fn least_bytes_follow_the_recipe() {
        let bytes = |config: &StepConfig| {
            let count = step(config);
            count
                .gemms
                .iter()
                .find(|gemm| gemm.linear == Linear::Qkv && gemm.role == Role::Forward)
                .unwrap()
                .bytes_per_token
                * count.tokens as f64
                / 24.0
        };
        let (x, w, y) = (32768.0 * 1024.0, 3072.0 * 1024.0, 32768.0 * 3072.0);
        assert_eq!(bytes(&config("454m")), 2.0 * (x + w + y));
        assert_eq!(bytes(&StepConfig { precision: Precision::Fp8Delayed, ..config("454m") }), x + w + 2.0 * y);
        let hp = step(&StepConfig { precision: Precision::Fp8RowwiseGwHp, head: Head::Fp8, ..config("454m") });
        assert!(hp.gemms.iter().all(|gemm| gemm.fp8 == (gemm.role != Role::WeightGradient)));
    }

    #[test]
    fn memory_of_454m_by_class() {
        let memory = step(&config("454m")).memory;
        let stored = 454_214_656;
        assert_eq!((memory.weights, memory.gradients, memory.optimizer_states), (2 * stored, 2 * stored, 12 * stored));
        // (T, 50304) bf16, the gradient in place.
        assert_eq!(memory.logits, 2 * 32768 * 50304);
        // A block keeps 8 d + 3 F bf16 elements, the row statistics and one number a head.
        assert_eq!(memory.activations, 32768 * (24 * (2 * (8 * 1024 + 3 * 4096) + 8 + 16 * 4) + 2 * 2 * 1024 + 4));
        assert!(memory.total < memory.classes().iter().map(|class| class.1).sum::<u64>());
        let fp8 = StepConfig { precision: Precision::Fp8Delayed, ..config("454m") };
        assert_eq!(step(&fp8).memory.weights, memory.weights);
        let compiled = step(&StepConfig { compile: Compile::Full, ..fp8 }).memory;
        // Both layouts of every cast weight stay.
        assert_eq!(compiled.weights, memory.weights + 2 * 402_653_184);
        let bf16_states = step(&StepConfig { optimizer_state: OptimizerState::Bf16, ..config("454m") }).memory;
        assert_eq!(bf16_states.optimizer_states, 4 * stored);
        let naive = step(&StepConfig { attention: Attention::Naive, ..config("454m") }).memory;
        assert!(naive.activations > 2 * memory.activations);
    }
}
