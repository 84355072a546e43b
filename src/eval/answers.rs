//! Whether a reply contains an answer as whole words and whole numbers: "105" is not in "1050", "five" not in "twenty-five".

/// Whether `text` contains `answer`, ignoring case, at word boundaries. A hyphen between letters, a point or comma between
/// digits, and the sign before a number belong to the word. Where a language is written without spaces every character begins a word.
pub fn answer_matches(text: &str, answer: &str) -> bool {
    let characters =
        |text: &str| -> Vec<char> { text.to_lowercase().chars().map(|c| if c == '−' { '-' } else { c }).collect() };
    let (text, answer) = (characters(text), characters(answer.trim()));
    if answer.is_empty() || answer.len() > text.len() {
        return false;
    }
    // In "10-5" the minus belongs to no number.
    let between = |at: usize| text[at] == '-' && at > 0 && text[at - 1].is_alphanumeric();
    (0..=text.len() - answer.len()).any(|at| {
        text[at..at + answer.len()] == answer[..] && !between(at) && !joined(&text, at) && !joined(&text, at + answer.len())
    })
}

/// Of a script without spaces between words, or one (Hangul) that hangs particles on them: Chinese, Japanese, Korean, Thai, Lao, Burmese,
/// Khmer.
fn without_spaces(c: char) -> bool {
    matches!(c,
        '\u{0e00}'..='\u{0eff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}' | '\u{3040}'..='\u{30ff}'
        | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{ac00}'..='\u{d7a3}' | '\u{f900}'..='\u{faff}'
        | '\u{20000}'..='\u{323af}')
}

/// Whether the characters on both sides of position `at` belong to one word or number.
fn joined(text: &[char], at: usize) -> bool {
    let get = |i: Option<usize>| i.and_then(|i| text.get(i)).copied();
    let (before, after) = (get(at.checked_sub(1)), get(Some(at)));
    let (Some(before), Some(after)) = (before, after) else { return false };
    if before.is_alphanumeric() && after.is_alphanumeric() {
        return !without_spaces(before) && !without_spaces(after);
    }
    let (further_back, further_on) = (get(at.checked_sub(2)), get(Some(at + 1)));
    let digits = |a: Option<char>, b: Option<char>| a.is_some_and(char::is_numeric) && b.is_some_and(char::is_numeric);
    let letters = |a: Option<char>, b: Option<char>| a.is_some_and(char::is_alphabetic) && b.is_some_and(char::is_alphabetic);
    // Behind a digit or a letter it is a dash: "1914-1918".
    let sign = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric() && !matches!(c, '-' | ')' | ']'));
    match (before, after) {
        ('-', digit) if digit.is_numeric() && sign(further_back) => true,
        ('.', digit) if digit.is_numeric() && further_back.is_none_or(|c| c.is_whitespace() || c == '-') => true,
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
            ("It is -5.", "-5"),
            ("It is −5.", "-5"),
            ("1914-1918", "1918"),
            ("1914-1918", "1914"),
            ("0.5 or .5", ".5"),
            ("(3)-5", "5"),
            ("首都是巴黎", "巴黎"),
            ("105年です", "105"),
            ("수도는 파리입니다", "파리"),
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
            ("It is -5.", "5"),
            ("−5", "5"),
            ("10-5", "-5"),
            ("It is .5", "5"),
            ("1050年", "105"),
            ("x", ""),
        ] {
            assert!(!answer_matches(text, answer), "{text} / {answer}");
        }
    }
}
