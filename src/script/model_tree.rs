//! A model as a tree: its modules with the number of their parameters and what of them trains. Blocks that are alike are one line.

use crate::adapter::peft::grouped;
use crate::nn::Parameter;
use std::collections::HashSet;

/// A module or a parameter.
#[derive(Debug, Default)]
struct Node {
    children: Vec<(String, Node)>,
    leaf: Option<Leaf>,
}

#[derive(Debug)]
struct Leaf {
    shape: Vec<usize>,
    dtype: String,
    /// A matrix that was counted under another name already.
    shared: bool,
    trains: bool,
    count: usize,
}

impl Node {
    fn insert(&mut self, name: &str, leaf: Leaf) {
        let Some((first, rest)) = name.split_once('.') else {
            self.children.push((name.to_string(), Node { children: Vec::new(), leaf: Some(leaf) }));
            return;
        };
        let at = self.children.iter().position(|(known, node)| known == first && node.leaf.is_none());
        let at = at.unwrap_or_else(|| {
            self.children.push((first.to_string(), Node::default()));
            self.children.len() - 1
        });
        self.children[at].1.insert(rest, leaf);
    }

    /// Parameters that train, and all.
    fn count(&self) -> (usize, usize) {
        let own = self
            .leaf
            .as_ref()
            .filter(|leaf| !leaf.shared)
            .map_or((0, 0), |leaf| (if leaf.trains { leaf.count } else { 0 }, leaf.count));
        let add = |(a, b): (usize, usize), (c, d): (usize, usize)| (a + c, b + d);
        self.children.iter().map(|(_, child)| child.count()).fold(own, add)
    }

    /// What blocks must have in common to be shown as one.
    fn outline(&self) -> String {
        let own = self.leaf.as_ref().map_or(String::new(), |leaf| format!("{:?} {} {}", leaf.shape, leaf.dtype, leaf.trains));
        let inner: Vec<String> = self.children.iter().map(|(name, child)| format!("{name}:{}", child.outline())).collect();
        format!("({own}{})", inner.join(","))
    }

    /// Children with runs of numbered ones that are alike put together: "0 .. 29".
    fn groups(&self) -> Vec<(String, usize, &Node)> {
        let mut groups: Vec<(String, String, usize, &Node, String)> = Vec::new();
        for (name, child) in &self.children {
            let outline = child.outline();
            let numbered = name.parse::<usize>().is_ok();
            match groups.last_mut() {
                Some((_, last, count, _, known)) if numbered && last.parse::<usize>().is_ok() && *known == outline => {
                    last.clone_from(name);
                    *count += 1;
                }
                _ => groups.push((name.clone(), name.clone(), 1, child, outline)),
            }
        }
        let label = |first: String, last: String, count: usize| if count > 1 { format!("{first} .. {last}") } else { first };
        groups.into_iter().map(|(first, last, count, node, _)| (label(first, last, count), count, node)).collect()
    }

    fn write(&self, indent: &str, out: &mut Vec<(String, String)>) {
        let groups = self.groups();
        let last = groups.len().saturating_sub(1);
        for (i, (mut name, times, mut node)) in groups.into_iter().enumerate() {
            // A module with a single part is written on its part's line.
            while node.leaf.is_none() && node.children.len() == 1 && times == 1 {
                let (inner, child) = &node.children[0];
                name = format!("{name}.{inner}");
                node = child;
            }
            let (branch, below) = if i == last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            let times = if times > 1 { format!("{times} x ") } else { String::new() };
            out.push((format!("{indent}{branch}{name}"), format!("{times}{}", node.summary())));
            node.write(&format!("{indent}{below}"), out);
        }
    }

    fn summary(&self) -> String {
        if let Some(leaf) = &self.leaf {
            let state = match (leaf.shared, leaf.trains) {
                (true, _) => "shared",
                (_, true) => "trains",
                _ => "frozen",
            };
            let dtype = if leaf.dtype == "f32" { String::new() } else { format!(" {}", leaf.dtype) };
            return format!("{} {:?}{dtype} {state}", grouped(leaf.count), leaf.shape);
        }
        counted(self.count())
    }
}

/// "1,024 of 28,192 train".
fn counted((trains, all): (usize, usize)) -> String {
    match trains {
        0 => format!("{} frozen", grouped(all)),
        some if some == all => format!("{} train", grouped(all)),
        some => format!("{} of {} train", grouped(some), grouped(all)),
    }
}

/// The tree under a title.
pub(crate) fn tree(title: &str, parameters: &[(String, Parameter)]) -> String {
    let mut root = Node::default();
    let mut seen = HashSet::new();
    for (name, parameter) in parameters {
        let leaf = Leaf {
            shape: parameter.dims(),
            dtype: parameter.dtype_name(),
            shared: !seen.insert(parameter.key()),
            trains: parameter.requires_grad(),
            count: parameter.elem_count(),
        };
        root.insert(name, leaf);
    }
    let mut lines = Vec::new();
    root.write("", &mut lines);
    let width = lines.iter().map(|(left, _)| left.chars().count()).max().unwrap_or(0);
    let body = lines.iter().map(|(left, right)| format!("\n{left:width$}  {right}"));
    format!("{title}: {}{}", counted(root.count()), body.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device, Tensor};

    fn parameter(shape: &[usize], trains: bool) -> Parameter {
        let parameter = Parameter::new(&Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap()).unwrap();
        parameter.set_requires_grad(trains);
        parameter
    }

    #[test]
    fn blocks_that_are_alike_are_one_line() {
        let shared = parameter(&[4, 2], false);
        let mut parameters = vec![("model.embed.weight".to_string(), shared.clone())];
        for i in 0..3 {
            parameters.push((format!("model.layers.{i}.q.weight"), parameter(&[2, 2], false)));
            parameters.push((format!("model.layers.{i}.q.lora_A"), parameter(&[1, 2], true)));
        }
        parameters.push(("lm_head.weight".into(), shared));
        let wanted = "\
tiny: 6 of 26 train
├─ model              6 of 26 train
│  ├─ embed.weight    8 [4, 2] frozen
│  └─ layers          6 of 18 train
│     └─ 0 .. 2       3 x 2 of 6 train
│        └─ q         2 of 6 train
│           ├─ weight  4 [2, 2] frozen
│           └─ lora_A  2 [1, 2] trains
└─ lm_head.weight     8 [4, 2] shared";
        let squeeze =
            |text: &str| text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>();
        assert_eq!(squeeze(&tree("tiny", &parameters)), squeeze(wanted));
        assert_eq!(grouped(134_515_008), "134,515,008");
    }
}
