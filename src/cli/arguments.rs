//! The arguments of the command line.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;

/// Learn and do fine-tuning of language models: a REPL, a script runner, lessons.
#[derive(Debug, Parser)]
#[command(
    name = "ftrepl",
    version,
    about,
    after_help = "Without a command: a REPL on a terminal, else the script on standard input."
)]
pub struct Arguments {
    #[command(flatten)]
    pub common: Common,
    /// Run this code and show its value.
    #[arg(short = 'e', value_name = "CODE", allow_hyphen_values = true)]
    pub code: Option<String>,
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What every command understands, before or after its name.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// Write exactly one JSON document to standard output, all else to standard error.
    #[arg(long, global = true)]
    pub json: bool,
    /// Start of the random numbers.
    #[arg(long, global = true, value_name = "N", default_value = "0", allow_negative_numbers = true, value_parser = seed)]
    pub seed: u64,
    /// auto, cpu, cuda, cuda:N or metal.
    #[arg(long, global = true, default_value = "auto")]
    pub device: String,
    /// Number of threads; all cores unless given.
    #[arg(long, global = true, value_name = "N", value_parser = threads)]
    pub threads: Option<usize>,
    /// No progress.
    #[arg(long, global = true)]
    pub quiet: bool,
    /// Folder for the files that scripts and `convert` write.
    #[arg(long, global = true, value_name = "DIR", default_value = ".")]
    pub out: PathBuf,
    /// Value that `param("KEY", default)` finds in the script; may be given several times.
    #[arg(long = "set", global = true, value_name = "KEY=VALUE", value_parser = key_and_value)]
    pub parameters: Vec<(String, String)>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a script.
    Run {
        /// The script.
        file: PathBuf,
        /// What the script sees as `args`.
        #[arg(last = true, value_name = "ARG")]
        arguments: Vec<String>,
    },
    /// Walk through a bundled lesson.
    Lesson {
        /// The lesson; 4 is the one on forgetting.
        number: Option<u32>,
        /// List the lesson's steps.
        #[arg(long)]
        list: bool,
        /// Only this step.
        #[arg(long, value_name = "NAME")]
        step: Option<String>,
        /// Smaller settings, to see everything work in little time.
        #[arg(long)]
        quick: bool,
    },
    /// Models: list, fetch, inspect, remove.
    Model {
        #[command(subcommand)]
        action: ModelAction,
    },
    /// The reference of every function, or of one.
    Doc {
        /// A function, method, property or module: "LoraConfig", "nn::Linear", "nn".
        name: Option<String>,
        /// How it is written.
        #[arg(long, value_enum, default_value_t = DocFormat::Text)]
        format: DocFormat,
    },
    /// Parse scripts and resolve their names; run nothing.
    Check {
        /// The scripts.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// The kernel for notebooks: install it, remove it, tell where it is.
    Jupyter {
        #[arg(value_enum)]
        action: JupyterAction,
        /// Instead for notebooks in Rust: set up evcxr, and build what their cells need.
        #[arg(long)]
        rust: bool,
        /// With --rust: the folder of the notebooks, beside this project's Cargo.toml.
        #[arg(long, value_name = "DIR", default_value = "notebooks", requires = "rust")]
        notebooks: PathBuf,
        /// In the Python environment in this folder; for the user unless given.
        #[arg(long, value_name = "DIR")]
        prefix: Option<PathBuf>,
    },
    /// Serve a notebook; Jupyter starts this.
    #[command(hide = true)]
    Kernel {
        /// The file that says where to listen.
        connection: PathBuf,
    },
    /// Start the kernel of a notebook in Rust; Jupyter starts this.
    #[command(hide = true)]
    RustKernel {
        /// evcxr's program and its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<OsString>,
    },
    /// Make a notebook of a script, or a script of a notebook.
    Convert {
        /// The script or notebook.
        file: PathBuf,
        /// Into what.
        #[arg(long, value_enum)]
        to: NotebookFormat,
        /// For which kernel a notebook is made.
        #[arg(long, value_enum, default_value_t = NotebookKernel::Ftrepl)]
        kernel: NotebookKernel,
        /// The file to write, below --out if that is given; otherwise one with the given one's name, in --out or beside it.
        #[arg(long, short = 'o', value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// What this machine and this build can do.
    Doctor,
    /// A completion script for a shell.
    Completions {
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Subcommand)]
pub enum ModelAction {
    /// The models that can be named shortly.
    List,
    /// Fetch a model.
    Pull {
        /// A name from `ftrepl model list`, or org/name[@revision].
        name: String,
    },
    /// What a model is, and the memory that it needs for each kind of work; loads nothing.
    Info {
        /// A name, a folder, a file, or org/name[@revision], of which config.json alone is fetched.
        name: String,
        /// Sequences that are computed at the same time.
        #[arg(long, value_name = "N", default_value_t = 1)]
        batch: usize,
        /// Tokens of each; in generation the prompt's and the new ones.
        #[arg(long, value_name = "N", default_value_t = 512)]
        length: usize,
        /// The rank of LoRA.
        #[arg(long, value_name = "N", default_value_t = 16)]
        rank: usize,
        /// The modules that LoRA changes, as "q_proj,v_proj" or "all-linear"; the family's usual ones unless given.
        #[arg(long, value_name = "NAMES", value_delimiter = ',')]
        targets: Vec<String>,
        /// Only this dtype, part by part: f32, bf16, f16, q8, q4, or auto for the file's.
        #[arg(long, value_name = "DTYPE")]
        dtype: Option<String>,
    },
    /// Where a model's files are.
    Path {
        /// A name.
        name: String,
    },
    /// Delete a model's files.
    Rm {
        /// A name.
        name: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DocFormat {
    Text,
    /// Without a name: a page a chapter, written to docs/reference.
    Markdown,
    Json,
    /// Definitions for the Rhai language server.
    Lsp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum NotebookFormat {
    Ipynb,
    Rhai,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum NotebookKernel {
    /// Ours: cells of the language.
    Ftrepl,
    /// evcxr: cells of Rust that run the language's.
    Rust,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum JupyterAction {
    Install,
    Uninstall,
    Status,
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_string(), value.to_string())),
        _ => Err("must be KEY=VALUE".into()),
    }
}

fn seed(text: &str) -> Result<u64, String> {
    crate::random::seed_of(text).ok_or_else(|| "must be a whole number from -2^63 to 2^64 - 1".into())
}

fn threads(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(threads) if (1..=4096).contains(&threads) => Ok(threads),
        _ => Err("must be a number from 1 to 4096".into()),
    }
}
