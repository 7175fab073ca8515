//! The distribution of downtimes as a small SVG file.

use std::fmt::Write as _;

use super::report::Downtimes;
use super::stats::Samples;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;

/// Times from `low` to `high`, both powers of ten, on a logarithmic axis.
struct Axis {
    low: f64,
    high: f64,
}

impl Axis {
    fn over(values: impl Iterator<Item = f64> + Clone) -> Self {
        let positive = values.filter(|value| *value > 0.0);
        let low = positive.clone().fold(f64::INFINITY, f64::min);
        let high = positive.fold(0.0, f64::max);
        if high == 0.0 {
            return Self { low: 1.0, high: 10.0 };
        }
        let (low, high) = (10f64.powf(low.log10().floor()), 10f64.powf(high.log10().ceil()));
        Self { low, high: if high > low { high } else { low * 10.0 } }
    }

    fn x(&self, value: f64) -> f64 {
        let share = (value.max(self.low) / self.low).log10() / (self.high / self.low).log10();
        LEFT + share * (WIDTH - LEFT - RIGHT)
    }

    fn ticks(&self) -> Vec<f64> {
        let decades = (self.high / self.low).log10().round() as i32;
        (0..=decades).map(|decade| self.low * 10f64.powi(decade)).collect()
    }
}

fn y(share: f64) -> f64 {
    HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)
}

/// Draws which share of migrations had at most which downtime.
pub fn downtimes(downtimes: &Downtimes) -> String {
    let (verified, unverified) = (downtimes.verified.sorted(), downtimes.unverified.sorted());
    let axis = Axis::over(verified.iter().chain(&unverified).copied());
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
    );
    text(&mut svg, LEFT, 20.0, "start", "Downtime of a migration: share of migrations that had at most this");
    for tick in axis.ticks() {
        let x = axis.x(tick);
        line(&mut svg, (x, y(0.0)), (x, y(1.0)), "#ddd");
        text(&mut svg, x, HEIGHT - BOTTOM + 18.0, "middle", &format!("{tick} ms"));
    }
    for share in [0.0, 0.5, 1.0] {
        line(&mut svg, (LEFT, y(share)), (WIDTH - RIGHT, y(share)), "#ddd");
        text(&mut svg, LEFT - 8.0, y(share) + 4.0, "end", &format!("{:.0} %", share * 100.0));
    }
    series(&mut svg, &axis, &downtimes.verified, ("#0b6e4f", "verified", LEFT));
    series(&mut svg, &axis, &downtimes.unverified, ("#c8553d", "without verification", LEFT + 220.0));
    svg.push_str("</svg>\n");
    svg
}

fn series(svg: &mut String, axis: &Axis, samples: &Samples, (colour, name, at): (&str, &str, f64)) {
    let values = samples.sorted();
    let mut points = String::new();
    for (place, value) in values.iter().enumerate() {
        let (before, after) = (place as f64, place as f64 + 1.0);
        for share in [before / values.len() as f64, after / values.len() as f64] {
            push(&mut points, format_args!("{:.1},{:.1} ", axis.x(*value), y(share)));
        }
    }
    push(
        svg,
        format_args!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\n",
            points.trim_end()
        ),
    );
    let label = format!("{name}: p50 {:.1} ms, p99 {:.1} ms", samples.p50(), samples.p99());
    push(svg, format_args!("<g fill=\"{colour}\">"));
    text(svg, at, HEIGHT - 10.0, "start", &label);
    svg.push_str("</g>\n");
}

fn line(svg: &mut String, from: (f64, f64), to: (f64, f64), colour: &str) {
    push(
        svg,
        format_args!(
            "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\"/>\n",
            from.0, from.1, to.0, to.1
        ),
    );
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, words: &str) {
    push(svg, format_args!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>\n"));
}

fn push(svg: &mut String, words: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = svg.write_fmt(words);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axis_spans_whole_decades_around_all_values() {
        let axis = Axis::over([0.8, 43.0].into_iter());
        assert_eq!(axis.ticks().len(), 4);
        assert!((axis.x(0.1) - LEFT).abs() < 1e-6 && (axis.x(100.0) - (WIDTH - RIGHT)).abs() < 1e-6);
        assert!(axis.x(0.8) < axis.x(43.0));
    }

    #[test]
    fn plot_has_a_curve_for_each_kind_even_without_values() {
        let mut samples = Samples::new();
        [20.0, 30.0, 25.0].into_iter().for_each(|value| samples.push(value));
        for drawn in [Downtimes::default(), Downtimes { verified: samples, ..Downtimes::default() }] {
            let svg = downtimes(&drawn);
            assert_eq!(svg.matches("<polyline").count(), 2);
            assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"), "{svg}");
        }
    }
}
