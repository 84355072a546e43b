//! The REPL's colours.

use crate::session::tokens::{Kind, Piece};
use serde::{Deserialize, Serialize};

/// Which colours are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ThemeName {
    /// By the terminal's background, where `COLORFGBG` tells it; else dark.
    #[default]
    Auto,
    /// For dark backgrounds.
    Dark,
    /// For light backgrounds.
    Light,
    /// None.
    None,
}

/// The colours in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Theme {
    Dark,
    Light,
    Plain,
}

const RESET: &str = "\x1b[0m";
/// A bracket and its partner.
const PARTNER: &str = "\x1b[1;4m";
/// A bracket without one.
const ALONE: &str = "\x1b[1;31m";

impl Theme {
    /// The theme of a name; without `colour` there is none.
    pub(super) fn new(name: ThemeName, colour: bool) -> Self {
        match name {
            _ if !colour => Self::Plain,
            ThemeName::None => Self::Plain,
            ThemeName::Dark => Self::Dark,
            ThemeName::Light => Self::Light,
            ThemeName::Auto => match std::env::var("COLORFGBG").ok().as_deref().and_then(background) {
                Some(7 | 15) => Self::Light,
                _ => Self::Dark,
            },
        }
    }

    pub(super) fn colours(self) -> bool {
        self != Self::Plain
    }

    fn of(self, kind: Kind) -> &'static str {
        let (dark, light) = match kind {
            Kind::Keyword => ("\x1b[35m", "\x1b[38;5;90m"),
            Kind::Constant | Kind::Number => ("\x1b[36m", "\x1b[38;5;25m"),
            Kind::Text => ("\x1b[32m", "\x1b[38;5;28m"),
            Kind::Comment => ("\x1b[90m", "\x1b[38;5;243m"),
            Kind::Call => ("\x1b[94m", "\x1b[38;5;26m"),
            Kind::Module => ("\x1b[33m", "\x1b[38;5;94m"),
            Kind::Property => ("\x1b[38;5;152m", "\x1b[38;5;24m"),
            Kind::Wrong => (ALONE, ALONE),
            Kind::Name | Kind::Open | Kind::Close | Kind::Sign => ("", ""),
        };
        match self {
            Self::Dark => dark,
            Self::Light => light,
            Self::Plain => "",
        }
    }

    /// What is suggested and not typed.
    pub(super) fn hint(self, text: &str) -> String {
        match self {
            Self::Plain => text.to_string(),
            _ => format!("\x1b[2m{text}{RESET}"),
        }
    }

    pub(super) fn prompt(self, text: &str) -> String {
        match self {
            Self::Plain => text.to_string(),
            _ => format!("\x1b[1m{text}{RESET}"),
        }
    }

    /// The text with its pieces coloured; `bracket` is the bracket at the cursor and its partner, as numbers of pieces.
    pub(super) fn paint(self, text: &str, pieces: &[Piece], bracket: Option<(usize, Option<usize>)>) -> String {
        let mut out = String::with_capacity(text.len() * 2);
        let mut end = 0;
        for (i, piece) in pieces.iter().enumerate() {
            out.push_str(text.get(end..piece.range.start).unwrap_or_default());
            let style = match bracket {
                Some((own, None)) if own == i => ALONE,
                Some((own, Some(other))) if own == i || other == i => PARTNER,
                _ => self.of(piece.kind),
            };
            match style {
                "" => out.push_str(piece.of(text)),
                style => {
                    out.push_str(style);
                    out.push_str(piece.of(text));
                    out.push_str(RESET);
                }
            }
            end = piece.range.end;
        }
        out.push_str(text.get(end..).unwrap_or_default());
        out
    }
}

/// The background of "15;0" or "15;default;0".
fn background(text: &str) -> Option<u8> {
    text.rsplit(';').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::tokens::{matching_bracket, pieces};

    #[test]
    fn text_is_coloured_and_unchanged() {
        let engine = rhai::Engine::new_raw();
        let text = "let x = f(1) + \"a\" // ü";
        let pieces = pieces(&engine, text);
        let painted = Theme::Dark.paint(text, &pieces, matching_bracket(text, &pieces, 10));
        assert!(painted.contains("\x1b[35mlet\x1b[0m") && painted.contains("\x1b[1;4m(\x1b[0m"), "{painted:?}");
        let mut plain = painted.clone();
        while let Some(start) = plain.find('\x1b') {
            let end = plain[start..].find('m').unwrap() + start;
            plain.replace_range(start..=end, "");
        }
        assert_eq!(plain, text);
        assert_eq!(Theme::Plain.paint(text, &pieces, None), text);
        assert_ne!(painted, Theme::Light.paint(text, &pieces, matching_bracket(text, &pieces, 10)));
        assert_eq!((background("15;0"), background("0;default;15"), background("x")), (Some(0), Some(15), None));
    }
}
