//! The backward pass of a block.

use super::{Block, Inner, Kept, Mixer, add, join_columns, rows, scaled, values};
use crate::autograd::buffer::{Buffer, zeroed};
use crate::ops::attention;
use crate::ops::norm::{Norm, NormValues};
use crate::ops::rope::rotate;
use crate::ops::{gated, parallel};
use candle_core::Result;

impl Block {
    /// Adds the parameters' gradients; returns the gradient by `x` where it is wanted.
    pub(in crate::ops) fn backward(&self, x: &[f32], kept: Kept, g: &[f32], wants_input: bool) -> Result<Option<Vec<f32>>> {
        let layers = &*self.layers;
        let Kept { q, k, v, q_raw, k_raw, mixed, log_sums, o_raw, middle, gate, up, down_raw, low_ranks } = kept;
        let [q_t, k_t, v_t, o_t, gate_t, up_t, down_t] = &low_ranks;
        let tokens = self.spec.positions.len();
        let width = self.widths(x);
        let size = parallel::part_size(tokens);
        let matrix = |columns: usize| Buffer::new(tokens * columns);
        let only_if = |wanted: bool, columns: usize| matrix(if wanted { columns } else { 0 });
        let factor = layers.residual_scale;
        let mut changes = layers.ranks().map(matrix);
        let [q_u, k_u, v_u, o_u, gate_u, up_u, down_u] = changes.each_mut().map(|u| &mut **u);

        // Down to attention's output.
        let (attention_norm, inner_norm) = (values(&layers.attention_norm)?, values(&layers.inner_norm)?);
        let output_norm = values(&layers.output_norm)?;
        // A gradient that is neither normed nor scaled on its way is taken from where it is.
        let (own_down, own_o) = (output_norm.is_some() || factor != 1.0, attention_norm.is_some() || factor != 1.0);
        let joint_inner = matches!(layers.inner, Inner::Joint(_));
        let (mut inner, mut dgate, mut dup) = (matrix(width.gate), matrix(width.gate), matrix(width.up));
        let mut djoint = only_if(joint_inner, width.gate + width.up);
        let (mut normal, mut dnormal, mut dmixed) =
            (only_if(inner_norm.is_some(), width.hidden), matrix(width.hidden), matrix(width.q));
        let (mut ddown, mut do_raw) = (only_if(own_down, width.hidden), only_if(own_o, width.hidden));
        let mut dmiddle = zeroed(x.len());
        let matrices: [&mut [f32]; 14] = [
            &mut inner,
            &mut dgate,
            &mut dup,
            &mut djoint,
            &mut normal,
            &mut dnormal,
            &mut dmixed,
            &mut ddown,
            &mut do_raw,
            &mut dmiddle,
            o_u,
            gate_u,
            up_u,
            down_u,
        ];
        parallel::each(parallel::cut(matrices, tokens, size), |(range, matrices)| {
            let [inner, dgate, dup, djoint, normal, dnormal, dmixed, ddown, do_raw, dmiddle, o_u, gate_u, up_u, down_u] =
                matrices;
            let first = range.start;
            let (gate, up) = (rows(&gate, &range, width.gate), rows(&up, &range, width.up));
            let (middle, g) = (rows(&middle, &range, width.hidden), rows(g, &range, width.hidden));
            let raw = |raw: &'_ Buffer| if raw.is_empty() { 0..0 } else { range.start * width.hidden..range.end * width.hidden };
            let by_down = branch_gradient(&output_norm, &down_raw[raw(&down_raw)], g, factor, ddown);
            let mut dinner = Buffer::new(gate.len());
            layers.down.backward(by_down, first, Some((&mut dinner, false)), down_u)?;
            let up = (width.up > 0).then_some(up);
            gated::forward(layers.activation, gate, up, inner);
            gated::backward(layers.activation, gate, up.map(|up| (up, &mut *dup)), &dinner, dgate);
            drop(dinner);
            match &layers.inner {
                Inner::Apart([to_gate, to_up]) => {
                    to_gate.backward(dgate, first, Some((dnormal, false)), gate_u)?;
                    to_up.backward(dup, first, Some((dnormal, true)), up_u)?;
                }
                Inner::Joint(both) => {
                    join_columns([(dgate, width.gate), (dup, width.up)], djoint);
                    both.backward(djoint, first, Some((dnormal, false)), gate_u)?;
                }
                Inner::Plain(layer) => layer.backward(dgate, first, Some((dnormal, false)), gate_u)?,
            }
            dmiddle.copy_from_slice(g);
            through_norm(&inner_norm, middle, normal, dnormal, dmiddle);
            let by_o = branch_gradient(&attention_norm, &o_raw[raw(&o_raw)], dmiddle, factor, do_raw);
            layers.o.backward(by_o, first, Some((dmixed, false)), o_u)
        })?;
        let by_down = if own_down { &*ddown } else { g };
        let normal_in = if inner_norm.is_some() { &*normal } else { &*middle };
        layers.down.add_gradients(&inner, by_down, down_t, down_u)?;
        match &layers.inner {
            Inner::Apart([to_gate, to_up]) => {
                to_gate.add_gradients(normal_in, &dgate, gate_t, gate_u)?;
                to_up.add_gradients(normal_in, &dup, up_t, up_u)?;
            }
            Inner::Joint(both) => both.add_gradients(normal_in, &djoint, gate_t, gate_u)?,
            Inner::Plain(layer) => layer.add_gradients(normal_in, &dgate, gate_t, gate_u)?,
        }
        layers.o.add_gradients(&mixed, if own_o { &do_raw } else { &dmiddle }, o_t, o_u)?;
        add_norm_gradient(&layers.output_norm, &down_raw, g, factor)?;
        add_norm_gradient(&layers.inner_norm, &middle, &dnormal, 1.0)?;
        add_norm_gradient(&layers.attention_norm, &o_raw, &dmiddle, factor)?;
        drop((inner, dgate, dup, djoint, ddown, do_raw, down_raw, o_raw, gate, up, middle));

        let (mut dq, mut dk, mut dv) = (matrix(width.q), Buffer::zeroed(k.len()), Buffer::zeroed(v.len()));
        attention::backward([&q, &k, &v, &mixed, &dmixed], &log_sums, &self.spec, [&mut dq, &mut dk, &mut dv]);
        drop((q, k, v, mixed, dmixed));

        // Down to the input.
        let (input_norm, q_norm, k_norm) = (values(&layers.input_norm)?, values(&layers.q_norm)?, values(&layers.k_norm)?);
        let wants_normal = wants_input || layers.input_norm.as_ref().is_some_and(Norm::trains);
        let (mut dq_raw, mut dk_raw) = (only_if(q_norm.is_some(), width.q), only_if(k_norm.is_some(), width.kv));
        let mut djoint = only_if(matches!(layers.mixer, Mixer::Joint(_)), width.q + 2 * width.kv);
        let mut normal = if normal.is_empty() { only_if(input_norm.is_some(), width.hidden) } else { normal };
        let matrices: [&mut [f32]; 12] = [
            &mut dq,
            &mut dk,
            &mut dv,
            &mut dq_raw,
            &mut dk_raw,
            &mut djoint,
            &mut normal,
            &mut dnormal,
            &mut dmiddle,
            q_u,
            k_u,
            v_u,
        ];
        parallel::each(parallel::cut(matrices, tokens, size), |(range, matrices)| {
            let [dq, dk, dv, dq_raw, dk_raw, djoint, normal, dnormal, dx, q_u, k_u, v_u] = matrices;
            let first = range.start;
            if let Some(rope) = &self.rope {
                rotate(dq, width.q, rope, first, true);
                rotate(dk, width.kv, rope, first, true);
            }
            let raw = |norm: &Option<NormValues>, columns: usize| {
                if norm.is_some() { range.start * columns..range.end * columns } else { 0..0 }
            };
            let dq = branch_gradient(&q_norm, &q_raw[raw(&q_norm, width.q)], dq, 1.0, dq_raw);
            let dk = branch_gradient(&k_norm, &k_raw[raw(&k_norm, width.kv)], dk, 1.0, dk_raw);
            let x = rows(x, &range, width.hidden);
            match &layers.mixer {
                Mixer::Apart([to_q, to_k, to_v]) => {
                    for (index, (layer, g, u)) in [(to_q, dq, q_u), (to_k, dk, k_u), (to_v, &*dv, v_u)].into_iter().enumerate() {
                        layer.backward(g, first, wants_normal.then_some((&mut *dnormal, index > 0)), u)?;
                    }
                }
                Mixer::Joint(all) => {
                    join_columns([(dq, width.q), (dk, width.kv), (dv, width.kv)], djoint);
                    all.backward(djoint, first, wants_normal.then_some((&mut *dnormal, false)), q_u)?;
                }
            }
            match &input_norm {
                Some(norm) => {
                    norm.forward(x, normal);
                    if wants_input {
                        norm.backward(x, dnormal, dx);
                    }
                }
                None if wants_input => add(dx, dnormal),
                None => {}
            }
            Ok(())
        })?;
        let normal_in = if input_norm.is_some() { &*normal } else { x };
        let by_q = if q_norm.is_some() { &*dq_raw } else { &*dq };
        let by_k = if k_norm.is_some() { &*dk_raw } else { &*dk };
        match &layers.mixer {
            Mixer::Apart([to_q, to_k, to_v]) => {
                to_q.add_gradients(normal_in, by_q, q_t, q_u)?;
                to_k.add_gradients(normal_in, by_k, k_t, k_u)?;
                to_v.add_gradients(normal_in, &dv, v_t, v_u)?;
            }
            Mixer::Joint(all) => all.add_gradients(normal_in, &djoint, q_t, q_u)?,
        }
        add_norm_gradient(&layers.q_norm, &q_raw, &dq, 1.0)?;
        add_norm_gradient(&layers.k_norm, &k_raw, &dk, 1.0)?;
        add_norm_gradient(&layers.input_norm, x, &dnormal, 1.0)?;
        Ok(wants_input.then_some(dmiddle))
    }
}

/// The gradient by what a layer gave, from that of what was added: through the scale and the norm, into `out`, where there are any.
fn branch_gradient<'a>(norm: &Option<NormValues>, raw: &[f32], g: &'a [f32], factor: f32, out: &'a mut [f32]) -> &'a [f32] {
    match norm {
        Some(norm) => {
            out.fill(0.0);
            norm.backward(raw, &scaled(g, factor), out);
            out
        }
        None if factor != 1.0 => {
            out.iter_mut().zip(g).for_each(|(out, g)| *out = g * factor);
            out
        }
        None => g,
    }
}

/// Adds the gradient by the norm's input to `dx`; fills `normal`, what the norm gave.
fn through_norm(norm: &Option<NormValues>, x: &[f32], normal: &mut [f32], dnormal: &[f32], dx: &mut [f32]) {
    match norm {
        Some(norm) => {
            norm.forward(x, normal);
            norm.backward(x, dnormal, dx);
        }
        None => add(dx, dnormal),
    }
}

fn add_norm_gradient(norm: &Option<Norm>, x: &[f32], g: &[f32], factor: f32) -> Result<()> {
    match norm {
        Some(norm) => norm.add_gradients(x, g, factor),
        None => Ok(()),
    }
}
