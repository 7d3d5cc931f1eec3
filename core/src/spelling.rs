//! Names that are probably misspelt.

/// Whether two names differ only in case, underscores and dashes, the end of a
/// word, two letters that are swapped, or two letters.
pub(crate) fn is_nearly(name: &str, field: &str) -> bool {
    const LONGEST: usize = 32;
    if name.len() > LONGEST || field.len() > LONGEST {
        return false;
    }
    let bare = |text: &str| -> Vec<char> {
        text.chars().filter(|letter| !matches!(letter, '_' | '-' | ' ')).flat_map(char::to_lowercase).collect()
    };
    let (name, field) = (bare(name), bare(field));
    if name.len() >= 4 && field.starts_with(&name) {
        return true;
    }
    if is_swapped(&name, &field) {
        return true;
    }
    // One row of the edit distance table: the number of edits from a prefix of
    // one name to each prefix of the other.
    let mut edits: Vec<usize> = (0..=field.len()).collect();
    for (row, letter) in name.iter().enumerate() {
        let mut corner = std::mem::replace(&mut edits[0], row + 1);
        for (column, other) in field.iter().enumerate() {
            let replaced = corner + usize::from(letter != other);
            corner = edits[column + 1];
            edits[column + 1] = replaced.min(corner + 1).min(edits[column] + 1);
        }
    }
    // Little would be left of a short word.
    let most = match field.len() {
        0..=3 => 0,
        4..=6 => 1,
        _ => 2,
    };
    edits[field.len()] <= most
}

/// Whether two words differ by two neighbouring letters that are swapped.
fn is_swapped(name: &[char], field: &[char]) -> bool {
    let differs = name.iter().zip(field).position(|(letter, other)| letter != other);
    let swapped = differs.and_then(|at| Some((name.get(at + 1)?, field.get(at + 1)?, at)));
    swapped
        .is_some_and(|(next, other, at)| name[at] == *other && *next == field[at] && name[at + 2..] == field[at + 2..])
}

/// The one of `names` that `name` is probably meant to be.
pub(crate) fn meant<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    names.into_iter().find(|other| is_nearly(name, other))
}
