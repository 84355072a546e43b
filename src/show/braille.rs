//! A grid of braille characters: two by four dots a terminal cell.

/// A drawing surface of `columns` by `rows` cells.
pub(super) struct Canvas {
    /// Cells across.
    pub columns: usize,
    /// Cells down.
    pub rows: usize,
    dots: Vec<u8>,
    marks: Vec<Option<char>>,
    colours: Vec<usize>,
}

/// Bits of a braille character by row and column of the dot.
const BITS: [[u8; 2]; 4] = [[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]];

impl Canvas {
    pub fn new(columns: usize, rows: usize) -> Self {
        let cells = columns * rows;
        Self { columns, rows, dots: vec![0; cells], marks: vec![None; cells], colours: vec![0; cells] }
    }

    /// A dot at shares of width (from the left) and height (from the bottom); what lies outside is not drawn.
    pub fn dot(&mut self, x: f64, y: f64, colour: usize) {
        if !((0.0..=1.0).contains(&x) && (0.0..=1.0).contains(&y)) {
            return;
        }
        let column = (x * (self.columns * 2 - 1) as f64).round() as usize;
        let row = ((1.0 - y) * (self.rows * 4 - 1) as f64).round() as usize;
        let cell = row / 4 * self.columns + column / 2;
        self.dots[cell] |= BITS[row % 4][column % 2];
        self.colours[cell] = colour;
    }

    /// A straight line between two such places.
    pub fn line(&mut self, from: (f64, f64), to: (f64, f64), colour: usize) {
        let across = (to.0 - from.0).abs() * (self.columns * 2) as f64;
        let down = (to.1 - from.1).abs() * (self.rows * 4) as f64;
        let steps = across.max(down).ceil().clamp(1.0, 10_000.0) as usize;
        for i in 0..=steps {
            let t = i as f64 / steps as f64;
            self.dot(from.0 + (to.0 - from.0) * t, from.1 + (to.1 - from.1) * t, colour);
        }
    }

    /// The cell at shares of width and height.
    pub fn cell(&self, x: f64, y: f64) -> (usize, usize) {
        let at = |share: f64, count: usize| (share.clamp(0.0, 1.0) * (count - 1) as f64).round() as usize;
        (at(x, self.columns), at(1.0 - y, self.rows))
    }

    /// Puts a character in a cell, or in the nearest one that has none.
    pub fn mark(&mut self, (column, row): (usize, usize), character: char, colour: usize) {
        let (columns, rows) = (self.columns, self.rows);
        let mut nearest = (0..4usize).flat_map(move |distance| {
            let near = move |from: usize, count: usize| from.saturating_sub(distance)..(from + distance + 1).min(count);
            near(row, rows).flat_map(move |r| near(column, columns).map(move |c| (c, r)))
        });
        let free = nearest.find(|(c, r)| self.marks[r * self.columns + c].is_none());
        if let Some((c, r)) = free {
            self.marks[r * self.columns + c] = Some(character);
            self.colours[r * self.columns + c] = colour;
        }
    }

    /// One text a row; `paint` colours a character.
    pub fn lines(&self, paint: impl Fn(char, usize) -> String) -> Vec<String> {
        let line = |row: usize| {
            let cells = row * self.columns..(row + 1) * self.columns;
            let text: String = cells
                .map(|i| match (self.marks[i], self.dots[i]) {
                    (Some(mark), _) => paint(mark, self.colours[i]),
                    (None, 0) => " ".to_string(),
                    (None, dots) => paint(char::from_u32(0x2800 + u32::from(dots)).unwrap_or(' '), self.colours[i]),
                })
                .collect();
            text.trim_end().to_string()
        };
        (0..self.rows).map(line).collect()
    }
}
