//! What was measured, as a table and as JSON.

use serde_json::{Value, json};

use super::stats::Samples;

/// What a value is compared with: measured in the same run, in the same unit.
#[derive(Clone, Debug, PartialEq)]
pub struct Baseline {
    /// What it is.
    pub what: String,
    /// Its median.
    pub value: f64,
    /// Its 99th percentile, where that is compared too.
    pub p99: Option<f64>,
}

/// What was to be reached.
#[derive(Clone, Debug, PartialEq)]
pub struct Aim {
    /// In words.
    pub text: String,
    /// Whether it was.
    pub met: bool,
}

/// One measured quantity.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// What it is.
    pub what: String,
    /// Its unit.
    pub unit: &'static str,
    /// Median.
    pub p50: f64,
    /// 99th percentile, where there are samples enough to speak of one.
    pub p99: Option<f64>,
    /// Number of samples.
    pub samples: usize,
    /// What it is compared with.
    pub baseline: Option<Baseline>,
    /// What was to be reached.
    pub aim: Option<Aim>,
}

impl Row {
    /// A row of a distribution.
    pub fn new(what: impl Into<String>, unit: &'static str, samples: &Samples) -> Self {
        let (p50, p99) = (samples.p50(), Some(samples.p99()).filter(|_| samples.count() > 1));
        Self { what: what.into(), unit, p50, p99, samples: samples.count(), baseline: None, aim: None }
    }

    /// Compares it.
    #[must_use]
    pub fn against(self, what: impl Into<String>, value: f64) -> Self {
        Self { baseline: Some(Baseline { what: what.into(), value, p99: None }), ..self }
    }

    /// Compares it with another distribution, the 99th percentiles too where both have one.
    #[must_use]
    pub fn against_samples(self, what: impl Into<String>, samples: &Samples) -> Self {
        let p99 = self.p99.and(Some(samples.p99()).filter(|_| samples.count() > 1));
        Self { baseline: Some(Baseline { what: what.into(), value: samples.p50(), p99 }), ..self }
    }

    /// The median must not exceed `limit`.
    #[must_use]
    pub fn aim_at_most(self, limit: f64) -> Self {
        let aim = Aim { text: format!("p50 <= {limit} {}", self.unit), met: self.p50 <= limit };
        Self { aim: Some(aim), ..self }
    }

    /// The ratio must not exceed `limit`.
    #[must_use]
    pub fn aim_ratio_at_most(self, limit: f64) -> Self {
        let met = self.ratio().is_some_and(|ratio| ratio <= limit);
        Self { aim: Some(Aim { text: format!("ratio <= {limit}"), met }), ..self }
    }

    /// The ratio must reach `limit`.
    #[must_use]
    pub fn aim_ratio_at_least(self, limit: f64) -> Self {
        let met = self.ratio().is_some_and(|ratio| ratio >= limit);
        Self { aim: Some(Aim { text: format!("ratio >= {limit}"), met }), ..self }
    }

    /// Median over baseline.
    pub fn ratio(&self) -> Option<f64> {
        self.baseline.as_ref().filter(|baseline| baseline.value > 0.0).map(|b| self.p50 / b.value)
    }

    /// 99th percentile over that of the baseline.
    pub fn ratio_p99(&self) -> Option<f64> {
        let baseline = self.baseline.as_ref()?.p99.filter(|p99| *p99 > 0.0)?;
        self.p99.map(|p99| p99 / baseline)
    }

    fn json(&self) -> Value {
        json!({
            "what": self.what,
            "unit": self.unit,
            "p50": self.p50,
            "p99": self.p99,
            "samples": self.samples,
            "baseline": self.baseline.as_ref().map(|b| json!({"what": b.what, "value": b.value, "p99": b.p99})),
            "ratio": self.ratio(),
            "ratio_p99": self.ratio_p99(),
            "aim": self.aim.as_ref().map(|aim| &aim.text),
            "met": self.aim.as_ref().map(|aim| aim.met),
        })
    }

    fn cells(&self) -> [String; 8] {
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
        let both = |p50: String, p99: Option<String>| match p99 {
            Some(p99) => format!("{p50} / {p99}"),
            None => p50,
        };
        let baseline = |b: &Baseline| format!("{}: {}", b.what, both(number(b.value), b.p99.map(number)));
        let ratio = |ratio: f64| if ratio < 0.1 { format!("{ratio:.4}") } else { format!("{ratio:.2}") };
        [
            self.what.clone(),
            number(self.p50),
            or_dash(self.p99.map(number)),
            self.unit.to_owned(),
            or_dash(self.baseline.as_ref().map(baseline)),
            or_dash(self.ratio().map(|p50| both(ratio(p50), self.ratio_p99().map(ratio)))),
            or_dash(self.aim.as_ref().map(|aim| aim.text.clone())),
            or_dash(self.aim.as_ref().map(|aim| if aim.met { "yes" } else { "NO" }.to_owned())),
        ]
    }
}

/// Everything about one subject.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figure {
    /// Its name on the command line.
    pub name: String,
    /// What was done.
    pub title: String,
    /// What came out.
    pub rows: Vec<Row>,
    /// What must be known to read it.
    pub notes: Vec<String>,
}

/// Downtimes in milliseconds, for the plot.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Downtimes {
    /// Of verified migrations.
    pub verified: Samples,
    /// Of migrations without verification.
    pub unverified: Samples,
}

/// A whole run.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Whether it was only to show that everything works.
    pub quick: bool,
    /// In the order of measuring.
    pub figures: Vec<Figure>,
    /// For the plot.
    pub downtimes: Downtimes,
}

const HEAD: [&str; 8] = ["", "p50", "p99", "unit", "baseline", "ratio", "aim", "met"];

impl Report {
    /// An empty one.
    pub fn new(quick: bool) -> Self {
        Self { quick, figures: Vec::new(), downtimes: Downtimes::default() }
    }

    /// As one object.
    pub fn json(&self) -> Value {
        let figure = |figure: &Figure| {
            let rows: Vec<Value> = figure.rows.iter().map(Row::json).collect();
            json!({"name": figure.name, "title": figure.title, "rows": rows, "notes": figure.notes})
        };
        let aims: Vec<bool> = self.rows().filter_map(|row| row.aim.as_ref()).map(|aim| aim.met).collect();
        json!({
            "result": "measured",
            "version": env!("CARGO_PKG_VERSION"),
            "quick": self.quick,
            "platform": quorate_vmm::platform::PlatformClass::detect().1,
            "processors": processors(),
            "figures": self.figures.iter().map(figure).collect::<Vec<_>>(),
            "aims": aims.len(),
            "aims_met": aims.iter().filter(|met| **met).count(),
            "downtimes_ms": {
                "verified": self.downtimes.verified.sorted(),
                "unverified": self.downtimes.unverified.sorted(),
            },
        })
    }

    fn rows(&self) -> impl Iterator<Item = &Row> {
        self.figures.iter().flat_map(|figure| &figure.rows)
    }

    /// For people: one table, aligned over all figures.
    pub fn table(&self) -> String {
        let cells: Vec<Vec<[String; 8]>> =
            self.figures.iter().map(|figure| figure.rows.iter().map(Row::cells).collect()).collect();
        let mut widths = HEAD.map(|name| name.chars().count());
        for row in cells.iter().flatten() {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut lines = vec![line(&HEAD.map(str::to_owned), &widths)];
        for (figure, rows) in self.figures.iter().zip(&cells) {
            lines.push(String::new());
            lines.push(format!("{}: {}", figure.name, figure.title));
            lines.extend(rows.iter().map(|row| line(row, &widths)));
            lines.extend(figure.notes.iter().map(|note| format!("  ({note})")));
        }
        lines.push(String::new());
        let aims: Vec<&Aim> = self.rows().filter_map(|row| row.aim.as_ref()).collect();
        let met = aims.iter().filter(|aim| aim.met).count();
        lines.push(format!("{met} of {} aims met on {} processors", aims.len(), processors()));
        if self.quick {
            lines.push("This was a quick run: the numbers mean nothing.".to_owned());
        }
        lines.join("\n")
    }
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn line(cells: &[String; 8], widths: &[usize; 8]) -> String {
    let columns = cells.iter().zip(widths).enumerate().map(|(column, (cell, &width))| match column {
        1 | 2 | 5 => format!("{cell:>width$}"),
        _ => format!("{cell:<width$}"),
    });
    format!("  {}", columns.collect::<Vec<_>>().join("  ")).trim_end().to_owned()
}

/// Three significant digits or more.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(p50: f64) -> Row {
        let mut samples = Samples::new();
        samples.push(p50);
        Row::new("row", "ms", &samples)
    }

    #[test]
    fn ratio_is_the_median_over_the_baseline() {
        assert_eq!(row(3.0).against("half of it", 1.5).ratio(), Some(2.0));
        assert_eq!(row(3.0).ratio(), None);
        assert_eq!(row(3.0).against("nothing", 0.0).ratio(), None);
    }

    #[test]
    fn distributions_are_compared_at_both_percentiles() {
        let (mut slow, mut fast) = (Samples::new(), Samples::new());
        for value in 1..=100 {
            slow.push(f64::from(value) * if value == 99 { 40.0 } else { 4.0 });
            fast.push(f64::from(value));
        }
        let compared = Row::new("slow", "ms", &slow).against_samples("fast", &fast);
        assert_eq!((compared.ratio(), compared.ratio_p99()), (Some(4.0), Some(400.0 / 99.0)));
        assert!(compared.cells().contains(&"fast: 50.0 / 99.0".to_owned()), "{:?}", compared.cells());
        assert_eq!(row(3.0).against_samples("fast", &fast).ratio_p99(), None);
        assert_eq!(compared.against("a number", 2.0).ratio_p99(), None);
    }

    #[test]
    fn aims_are_met_at_their_limit_and_not_without_a_ratio() {
        let met = |row: Row| row.aim.is_some_and(|aim| aim.met);
        assert!(met(row(2.0).aim_at_most(2.0)) && !met(row(2.1).aim_at_most(2.0)));
        assert!(met(row(13.0).against("b", 10.0).aim_ratio_at_most(1.3)));
        assert!(!met(row(14.0).against("b", 10.0).aim_ratio_at_most(1.3)));
        assert!(met(row(8.0).against("b", 10.0).aim_ratio_at_least(0.8)));
        assert!(!met(row(8.0).aim_ratio_at_least(0.8)));
    }

    #[test]
    fn table_and_object_name_what_was_missed() {
        let mut report = Report::new(true);
        let rows = vec![row(2.0).against("b", 1.0).aim_ratio_at_most(1.3), row(1.0).aim_at_most(2.0)];
        report.figures.push(Figure { name: "boot".into(), rows, ..Figure::default() });
        let table = report.table();
        assert!(table.contains("NO") && table.contains("1 of 2 aims met"), "{table}");
        let object = report.json();
        assert_eq!((&object["aims"], &object["aims_met"]), (&json!(2), &json!(1)));
        assert_eq!(object["figures"][0]["rows"][0]["ratio"], json!(2.0));
    }

    #[test]
    fn numbers_keep_three_digits() {
        assert_eq!([0.0123, 1.234, 12.34, 1234.5].map(number), ["0.012", "1.23", "12.3", "1234"]);
    }
}
