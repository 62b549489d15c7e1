//! Plots as SVG: a line for each contestant, the spread of its rounds as a bar at each point.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::prelude::*;

use super::Part;
use super::table::{contestants, rounds};
use crate::contestant::label;
use crate::plan::{Metric, Plot};
use crate::stats::Spread;

const SIZE: (u32, u32) = (920, 400);
/// Width of the chart; the legend stands beside it, where it hides nothing.
const CHART: u32 = 660;

/// The same contestant has the same colour in all pictures.
fn colour(contestant: &str) -> RGBColor {
    match contestant {
        "trigger" => RGBColor(31, 119, 180),
        "trigger, one client" => RGBColor(134, 188, 224),
        "wal" => RGBColor(214, 39, 40),
        "wal, one client" => RGBColor(240, 150, 150),
        "node" | "notify" => RGBColor(44, 160, 44),
        "rust" => RGBColor(148, 103, 189),
        "sockjs" | "wal2json" => RGBColor(255, 127, 14),
        "log-trigger" => RGBColor(140, 86, 75),
        _ => RGBColor(90, 90, 90),
    }
}

struct Line {
    contestant: String,
    points: Vec<(f64, Spread)>,
}

/// A picture, if there is something on it.
///
/// # Errors
/// It cannot be drawn.
pub fn svg(part: &Part, plot: &Plot) -> Result<Option<String>, String> {
    let lines = if plot.curve { curves(part, plot) } else { over_cases(part, plot) };
    let all = || lines.iter().flat_map(|line| &line.points);
    if all().next().is_none() {
        return Ok(None);
    }
    let x = Axis::of(all().map(|p| p.0), plot.log_x);
    let y = Axis::of(all().flat_map(|p| [p.1.min, p.1.max]), plot.log_y);
    let mut text = String::new();
    draw(&mut text, plot, &lines, &x, &y).map_err(|e| format!("{}: {e}", plot.file))?;
    // The crate leaves spaces at the ends of lines.
    Ok(Some(text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n") + "\n"))
}

fn over_cases(part: &Part, plot: &Plot) -> Vec<Line> {
    let Some(metric) = part.scenario.metrics.iter().find(|m| m.name == plot.metric) else { return Vec::new() };
    let line =
        |contestant: &str| Line { contestant: contestant.into(), points: points(part, plot, metric, contestant) };
    contestants(part.found).into_iter().map(line).filter(|line| !line.points.is_empty()).collect()
}

fn points(part: &Part, plot: &Plot, metric: &Metric, contestant: &str) -> Vec<(f64, Spread)> {
    let of = metric.of.as_ref().unwrap_or(&metric.name);
    let series = part.found.series.iter();
    let mine = series.filter(|s| s.contestant == contestant && s.metric == *of && s.case.starts_with(&plot.cases));
    let point = |case: &str, x: f64| rounds(part.found, metric, contestant, case).map(|r| (x, Spread::of(r)));
    mine.filter_map(|s| point(&s.case, s.x)).filter(|p| p.1.median.is_finite()).collect()
}

fn curves(part: &Part, plot: &Plot) -> Vec<Line> {
    let mine = part.found.curves.iter().filter(|c| c.metric == plot.metric);
    let points = |c: &crate::results::Curve| c.points.iter().map(|p| (p[0], Spread::of([p[1]]))).collect();
    mine.map(|c| Line { contestant: c.contestant.clone(), points: points(c) }).collect()
}

/// An axis; a logarithmic one is drawn as the logarithm.
#[derive(Clone)]
struct Axis {
    log: bool,
    range: Range<f64>,
    ticks: Vec<f64>,
}

impl Axis {
    fn of(values: impl Iterator<Item = f64>, log: bool) -> Self {
        let values: Vec<f64> = values.filter(|v| v.is_finite() && (!log || *v > 0.0)).collect();
        let (low, high) =
            (values.iter().copied().fold(f64::MAX, f64::min), values.iter().copied().fold(f64::MIN, f64::max));
        if log {
            let (low, high) = ((low * 0.8).log10(), (high * 1.25).log10());
            let decades = low.floor() as i32..=high.ceil() as i32;
            let wide = high - low > 4.0;
            let ticks = decades.flat_map(|d| [1.0, 2.0, 5.0].map(|t| (t, d)));
            let ticks = ticks.filter(|(t, _)| !wide || *t == 1.0).map(|(t, d)| f64::log10(t) + f64::from(d));
            return Self { log, range: low..high, ticks: ticks.filter(|t| (low..=high).contains(t)).collect() };
        }
        // From zero, or a small difference looks like a large one.
        let high = if high > 0.0 { high * 1.08 } else { 1.0 };
        let rough = high / 6.0;
        let magnitude = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|s| s * magnitude).find(|s| *s >= rough).unwrap_or(rough);
        let ticks = (0..).map(|n| f64::from(n) * step).take_while(|t| *t <= high).collect();
        Self { log, range: low.min(0.0)..high, ticks }
    }

    fn place(&self, value: f64) -> f64 {
        if self.log { value.max(f64::MIN_POSITIVE).log10().max(self.range.start) } else { value }
    }

    fn text(&self, place: f64) -> String {
        let value = if self.log { 10_f64.powf(place) } else { place };
        match value.abs() {
            v if v >= 1e6 => format!("{}M", short(value / 1e6)),
            v if v >= 1e4 => format!("{}k", short(value / 1e3)),
            _ => short(value),
        }
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let part = (value - self.range.start) / (self.range.end - self.range.start);
        limit.0 + (part * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, place: &f64) -> String {
        self.text(*place)
    }
}

fn short(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn draw(text: &mut String, plot: &Plot, lines: &[Line], x: &Axis, y: &Axis) -> Result<(), Box<dyn std::error::Error>> {
    let area = SVGBackend::with_string(text, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let (left, right) = area.split_horizontally(CHART);
    let mut chart = ChartBuilder::on(&left)
        .caption(&plot.title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(46)
        .y_label_area_size(66)
        .build_cartesian_2d(x.clone(), y.clone())?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(RGBColor(225, 225, 225))
        .x_desc(&plot.x)
        .y_desc(&plot.y)
        .label_style(("sans-serif", 13))
        .draw()?;
    for (n, line) in lines.iter().enumerate() {
        let colour = colour(&line.contestant);
        let at = |x_value: f64, y_value: f64| (x.place(x_value), y.place(y_value));
        let path = line.points.iter().map(|(px, spread)| at(*px, spread.median));
        chart.draw_series(LineSeries::new(path.clone(), colour.stroke_width(2)))?;
        let height = 60 + 22 * n as i32;
        right.draw(&PathElement::new(vec![(6, height), (26, height)], colour.stroke_width(3)))?;
        let name = Text::new(label(&line.contestant).to_owned(), (32, height - 7), ("sans-serif", 14).into_font());
        right.draw(&name)?;
        if !plot.curve {
            chart.draw_series(path.map(|p| Circle::new(p, 3, colour.filled())))?;
            let bar = |(px, spread): &(f64, Spread)| {
                PathElement::new(vec![at(*px, spread.min), at(*px, spread.max)], colour.stroke_width(1))
            };
            chart.draw_series(line.points.iter().map(bar))?;
        }
    }
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_has_a_handful_of_round_ticks() {
        for (values, log) in [([0.1, 13.0], false), ([1.0, 5000.0], true), ([3.0, 9.0], true), ([0.0, 0.0], false)] {
            let axis = Axis::of(values.into_iter(), log);
            assert!((2..=16).contains(&axis.ticks.len()), "{values:?}: {:?}", axis.ticks);
            assert!(axis.ticks.iter().all(|t| axis.text(*t).len() <= 5), "{values:?}: {:?}", axis.ticks);
        }
    }
}
