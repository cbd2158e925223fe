//! Tables that fit any width: which columns are shown, and cells that are cut visibly.

use ratatui::text::Span;

use crate::accounts::Users;

/// One column of a table of `T`.
pub struct Column<T> {
    /// Its heading.
    pub head: &'static str,
    /// The sort key that orders by it.
    pub sort: Option<&'static str>,
    /// Width in cells, and how far it may grow.
    pub width: usize,
    /// The width beyond which it gains nothing.
    pub most: usize,
    /// Numbers stand at the right.
    pub is_right: bool,
    /// The text for a row.
    pub cell: fn(&T, &Users) -> String,
}

impl<T> Column<T> {
    /// The same, by which the table can be sorted.
    pub const fn sorts(mut self) -> Self {
        self.sort = Some(self.head);
        self
    }
}

/// The columns of a table that fit, from left to right, and how many do not.
#[derive(Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Index and width of each column that is shown.
    pub shown: Vec<(usize, usize)>,
    /// Columns that do not fit.
    pub hidden: usize,
}

/// Cells kept for the note that columns are hidden.
const NOTE: usize = 4;

/// Chooses columns. `order`: their indices, the most important first; what does not fit is left out from the end of
/// `order` on, but for `kept`. Room that is left goes to columns that need it: `needs` is the width of their widest cell.
pub fn choose<T>(
    columns: &[Column<T>],
    order: &[usize],
    kept: Option<usize>,
    width: usize,
    needs: impl Fn(&Column<T>) -> usize,
) -> Chosen {
    let needed =
        |chosen: &[usize]| chosen.iter().map(|at| columns[*at].width + 1).sum::<usize>().saturating_sub(1);
    let first = kept.into_iter().chain(order.iter().copied().filter(|at| Some(*at) != kept));
    let mut chosen: Vec<usize> = first.collect();
    if needed(&chosen) > width {
        while chosen.len() > 1 && needed(&chosen) + NOTE > width {
            chosen.pop();
        }
    }
    let hidden = columns.len() - chosen.len();
    chosen.sort_unstable();
    let note = if hidden > 0 { NOTE } else { 0 };
    let mut left = width.saturating_sub(needed(&chosen) + note);
    let mut shown: Vec<(usize, usize)> = chosen.iter().map(|at| (*at, columns[*at].width)).collect();
    for (at, width) in &mut shown {
        let column = &columns[*at];
        if left == 0 || column.most <= *width {
            continue;
        }
        let more = needs(column).min(column.most).saturating_sub(*width).min(left);
        *width += more;
        left -= more;
    }
    Chosen { shown, hidden }
}

/// Cells on a terminal that a text takes.
pub fn width_of(text: &str) -> usize {
    Span::raw(text).width()
}

/// The text in exactly `width` cells; one that is too long ends in `…`.
pub fn fit(text: &str, width: usize, is_right: bool) -> String {
    let len = width_of(text);
    if len <= width {
        let space = " ".repeat(width - len);
        return if is_right { space + text } else { text.to_owned() + &space };
    }
    let mut cut = String::new();
    let mut taken = 0;
    for c in text.chars() {
        let more = width_of(c.encode_utf8(&mut [0; 4]));
        if taken + more + 1 > width {
            break;
        }
        cut.push(c);
        taken += more;
    }
    if width > 0 {
        cut.push('…');
        taken += 1;
    }
    cut + &" ".repeat(width.saturating_sub(taken))
}

/// The text in lines of at most `width` cells, broken between words where that is possible.
pub fn wrap(text: &str, width: usize, indent: &str) -> Vec<String> {
    let width = width.max(1);
    let mut lines = Vec::new();
    let mut line = String::new();
    // Spaces at the begin and inside of a line are kept: columns stand on them.
    for word in text.split_inclusive(' ') {
        let bare = word.trim_end_matches(' ');
        if !line.trim().is_empty() && width_of(&line) + width_of(bare) > width {
            lines.push(line.trim_end().to_owned());
            line = if width_of(indent) < width { indent.to_owned() } else { String::new() };
        }
        for c in word.chars() {
            if width_of(&line) + width_of(c.encode_utf8(&mut [0; 4])) > width {
                if c == ' ' {
                    continue;
                }
                lines.push(line);
                line = String::new();
            }
            line.push(c);
        }
    }
    lines.push(line.trim_end().to_owned());
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Vec<Column<u32>> {
        let column = |head, width, most| Column {
            head,
            sort: None,
            width,
            most,
            is_right: false,
            cell: (|n, _| n.to_string()) as fn(&u32, &Users) -> String,
        };
        vec![column("a", 5, 5), column("b", 5, 20), column("c", 5, 5), column("d", 5, 5)]
    }

    #[test]
    fn columns_are_left_out_in_order_and_counted() {
        let chosen = |kept, width| choose(&table(), &[0, 2, 3, 1], kept, width, |_| 30);
        assert_eq!(chosen(None, 23), Chosen { shown: vec![(0, 5), (1, 5), (2, 5), (3, 5)], hidden: 0 });
        assert_eq!(chosen(None, 30).shown[1], (1, 12), "b can use room");
        assert_eq!(chosen(None, 22), Chosen { shown: vec![(0, 5), (2, 5), (3, 5)], hidden: 1 });
        assert_eq!(chosen(Some(1), 22), Chosen { shown: vec![(0, 5), (1, 6), (2, 5)], hidden: 1 });
        assert_eq!(chosen(None, 0), Chosen { shown: vec![(0, 5)], hidden: 3 });
    }

    #[test]
    fn texts_are_cut_by_the_cells_they_take() {
        assert_eq!(fit("abc", 5, false), "abc  ");
        assert_eq!(fit("abc", 5, true), "  abc");
        assert_eq!(fit("abcdef", 5, true), "abcd…");
        assert_eq!(fit("日本語", 5, false), "日本…");
        assert_eq!(fit("日本語", 4, false), "日… ");
        assert_eq!(fit("abc", 0, false), "");
    }

    #[test]
    fn lines_break_between_words_and_inside_only_if_they_must() {
        assert_eq!(wrap("one two three", 7, ""), ["one two", "three"]);
        assert_eq!(wrap("a  b", 80, ""), ["a  b"]);
        assert_eq!(wrap("abcdefgh ij", 5, " "), ["abcde", "fgh", " ij"]);
        assert_eq!(wrap("", 5, ""), [""]);
        for width in 0..9 {
            let lines = wrap("日本語 ab  cdefghijk l", width, "  ");
            assert!(lines.iter().all(|line| width_of(line) <= width.max(2)), "{width}: {lines:?}");
        }
    }
}
