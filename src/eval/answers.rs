//! Whether a reply contains an answer as whole words and whole numbers: "105" is not in "1050", "five" not in "twenty-five".

/// Whether `text` contains `answer`, ignoring case, at word boundaries. A hyphen between letters, and a point or comma between
/// digits, belong to the word.
pub fn answer_matches(text: &str, answer: &str) -> bool {
    let text: Vec<char> = text.to_lowercase().chars().collect();
    let answer: Vec<char> = answer.trim().to_lowercase().chars().collect();
    if answer.is_empty() || answer.len() > text.len() {
        return false;
    }
    (0..=text.len() - answer.len())
        .any(|at| text[at..at + answer.len()] == answer[..] && !joined(&text, at) && !joined(&text, at + answer.len()))
}

/// Whether the characters on both sides of position `at` belong to one word or number.
fn joined(text: &[char], at: usize) -> bool {
    let get = |i: Option<usize>| i.and_then(|i| text.get(i)).copied();
    let (before, after) = (get(at.checked_sub(1)), get(Some(at)));
    let (Some(before), Some(after)) = (before, after) else { return false };
    if before.is_alphanumeric() && after.is_alphanumeric() {
        return true;
    }
    let (further_back, further_on) = (get(at.checked_sub(2)), get(Some(at + 1)));
    let digits = |a: Option<char>, b: Option<char>| a.is_some_and(char::is_numeric) && b.is_some_and(char::is_numeric);
    let letters = |a: Option<char>, b: Option<char>| a.is_some_and(char::is_alphabetic) && b.is_some_and(char::is_alphabetic);
    match (before, after) {
        ('.' | ',', _) => digits(further_back, Some(after)),
        (_, '.' | ',') => digits(Some(before), further_on),
        ('-', _) => letters(further_back, Some(after)),
        (_, '-') => letters(Some(before), further_on),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_words_and_numbers_match() {
        for (text, answer) in [
            ("The answer is 105.", "105"),
            ("105", "105"),
            ("It's Paris, France", "paris"),
            ("carbon dioxide (CO2)", "CO2"),
            ("a - b", "a"),
        ] {
            assert!(answer_matches(text, answer), "{text} / {answer}");
        }
    }

    #[test]
    fn parts_of_words_and_numbers_do_not() {
        for (text, answer) in [
            ("1050", "105"),
            ("3.5", "5"),
            ("100,000", "100"),
            ("twenty-five", "five"),
            ("Parisian", "Paris"),
            ("Brontës", "Brontë"),
            ("x", ""),
        ] {
            assert!(!answer_matches(text, answer), "{text} / {answer}");
        }
    }
}
