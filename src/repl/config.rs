//! The REPL's settings: a TOML file, `$FTREPL_CONFIG` or `ftrepl/config.toml` in the user's configuration folder.

use super::theme::ThemeName;
use crate::error::{Error, Result};
use etcetera::BaseStrategy;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What `:config` shows and a configuration file may hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Keys: "emacs" or "vi".
    pub edit_mode: EditMode,
    /// Colours: "auto" (by the terminal's background, as far as it says), "dark", "light" or "none".
    pub theme: ThemeName,
    /// How results are shown: "table", "json", "csv" or "markdown".
    pub mode: Mode,
    /// What shows long results: "auto" ($PAGER, else less), "never", or a command.
    pub pager: String,
    /// What `:edit` opens; empty: $VISUAL, else $EDITOR, else vi.
    pub editor: String,
    /// Tab: "list" shows all, "circular" goes through them.
    pub completion: CompletionStyle,
    /// Whether earlier input that begins alike is suggested behind the cursor.
    pub hints: bool,
    /// Lines of history that are kept.
    pub history_size: usize,
    /// The prompt.
    pub prompt: String,
    /// Whether pasted text is taken as one input.
    pub bracketed_paste: bool,
}

/// Which keys edit a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EditMode {
    /// As Emacs and most shells.
    #[default]
    Emacs,
    /// As vi.
    Vi,
}

/// How results are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// By what they are: tables, trees, charts.
    #[default]
    Table,
    /// As JSON.
    Json,
    /// As comma-separated values.
    Csv,
    /// As Markdown.
    Markdown,
}

/// What Tab does where there are several possibilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CompletionStyle {
    /// Shows all.
    #[default]
    List,
    /// Puts in one after the other.
    Circular,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            edit_mode: EditMode::Emacs,
            theme: ThemeName::Auto,
            mode: Mode::Table,
            pager: "auto".into(),
            editor: String::new(),
            completion: CompletionStyle::List,
            hints: true,
            history_size: 10_000,
            prompt: "> ".into(),
            bracketed_paste: true,
        }
    }
}

impl Config {
    /// Where the file is looked for; `None` where the system has no place for it.
    pub fn path() -> Option<PathBuf> {
        if let Some(path) = std::env::var_os("FTREPL_CONFIG").filter(|value| !value.is_empty()) {
            return Some(path.into());
        }
        Some(etcetera::choose_base_strategy().ok()?.config_dir().join("ftrepl/config.toml"))
    }

    /// Reads the file; the defaults where there is none.
    ///
    /// # Errors
    /// The file cannot be read, is no TOML, or says something that there is not: the message names the line.
    pub fn load() -> Result<Self> {
        let Some(path) = Self::path() else { return Ok(Self::default()) };
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::parse(&text).map_err(|problem| Error::format(&path, problem)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(Error::io("read", &path, error)),
        }
    }

    fn parse(text: &str) -> std::result::Result<Self, String> {
        let config: Self = toml::from_str(text).map_err(|error| error.to_string().trim_end().to_string())?;
        if config.prompt.contains('\n') {
            return Err("prompt must be one line".into());
        }
        Ok(config)
    }

    /// The settings as a file would hold them.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).unwrap_or_default()
    }
}

impl Mode {
    /// The mode of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        serde_json::from_value(name.into()).ok()
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::Json => "json",
            Self::Csv => "csv",
            Self::Markdown => "markdown",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_what_differs() {
        let config = Config::parse("edit_mode = \"vi\"\nhistory_size = 5\n").unwrap();
        assert_eq!((config.edit_mode, config.history_size, config.mode), (EditMode::Vi, 5, Mode::Table));
        assert_eq!(Config::parse("").unwrap(), Config::default());
        // What `:config` prints is a file that says the same.
        assert_eq!(Config::parse(&Config::default().to_toml()).unwrap(), Config::default());
    }

    #[test]
    fn mistakes_are_named() {
        let problem = Config::parse("edit_mod = \"vi\"").unwrap_err();
        assert!(problem.contains("edit_mod") && problem.contains("edit_mode"), "{problem}");
        assert!(Config::parse("mode = \"yaml\"").unwrap_err().contains("markdown"));
        assert!(Config::parse("hints = 3").unwrap_err().contains("boolean"));
        assert!(Config::parse("prompt = \"a\\nb\"").unwrap_err().contains("one line"));
    }
}
