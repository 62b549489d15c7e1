//! Random conditions over a table with columns of all common types, for the promise that a condition means the same
//! live, in a snapshot and in Postgres.
//!
//! What is made is meant to be accepted and to raise no error on a row (divisors are not zero, casts fit), to be true of
//! some rows and false or NULL of others. A condition whose sides have different collations says which one it means.

use serde_json::{Value, json};

use crate::settings::Dice;

/// Columns of the table and their types. The first is the key.
pub const COLUMNS: &[(&str, &str)] = &[
    ("id", "int4"),
    ("i2", "int2"),
    ("i4", "int4"),
    ("i8", "int8"),
    ("n", "numeric"),
    ("n2", "numeric(10,2)"),
    ("n0", "numeric(6,0)"),
    ("f", "float8"),
    ("s", "text"),
    ("c", "text COLLATE \"C\""),
    ("v", "varchar(20)"),
    ("ch", "char(6)"),
    ("b", "bool"),
    ("d", "date"),
    ("ts", "timestamp"),
    ("tz", "timestamptz"),
    ("iv", "interval"),
    ("u", "uuid"),
    ("j", "jsonb"),
    ("ai", "int4[]"),
    ("at", "text[]"),
    ("m", "mood"),
    ("ip", "inet"),
    ("by", "bytea"),
    ("r", "int4range"),
];

/// The enum of the column `m`; to be created before the table.
pub const MOOD: &str = "CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy')";

/// The table's columns as `CREATE TABLE` wants them.
#[must_use]
pub fn definition() -> String {
    let columns: Vec<String> = COLUMNS.iter().map(|(name, kind)| format!("{name} {kind}")).collect();
    format!("{}, PRIMARY KEY (id)", columns.join(", "))
}

/// Literals for a row, in the order of [`COLUMNS`].
#[must_use]
pub fn row(dice: &mut Dice, id: i32) -> String {
    let values: Vec<String> = COLUMNS
        .iter()
        .map(|(name, _)| match *name {
            "id" => id.to_string(),
            _ if dice.u8(..8) == 0 => "NULL".to_owned(),
            name => literal(dice, kind_of(name)).sql,
        })
        .collect();
    format!("({})", values.join(", "))
}

/// A condition and its parameters.
#[derive(Debug, Clone)]
pub struct Condition {
    pub text: String,
    /// `params` of a subscription.
    pub params: Vec<Value>,
    /// The same for `EXECUTE`, as SQL literals.
    pub arguments: Vec<String>,
}

/// A random condition.
#[must_use]
pub fn condition(dice: &mut Dice) -> Condition {
    let mut maker = Maker { dice, params: Vec::new(), arguments: Vec::new() };
    let depth = maker.dice.u32(1..4);
    let mut text = maker.boolean(depth);
    // Rarely one that is to be refused or to be an error: those must be equal, too.
    if maker.dice.u8(..100) == 0 {
        text.push_str([" AND", " AND no_such_column = 1", " AND i4 = s", " AND now() > tz"][maker.dice.usize(..4)]);
    }
    Condition { text, params: maker.params, arguments: maker.arguments }
}

/// What values are of, as far as operators tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Int,
    Numeric,
    Float,
    Text,
    Char,
    Bool,
    Date,
    Timestamp,
    Timestamptz,
    Interval,
    Uuid,
    Json,
    Ints,
    Texts,
    Mood,
    Inet,
    Bytes,
    Range,
}

use Kind::{
    Bool, Bytes, Char, Date, Float, Inet, Int, Interval, Ints, Json, Mood, Numeric, Range, Text, Texts, Timestamp,
    Timestamptz, Uuid,
};

const COMPARED: [Kind; 16] = [
    Int,
    Int,
    Numeric,
    Float,
    Text,
    Text,
    Char,
    Date,
    Timestamp,
    Timestamptz,
    Interval,
    Uuid,
    Mood,
    Inet,
    Bytes,
    Range,
];

impl Kind {
    fn columns(self) -> &'static [&'static str] {
        match self {
            Int => &["id", "i2", "i4", "i8"],
            Numeric => &["n", "n2", "n0"],
            Float => &["f"],
            Text => &["s", "c", "v"],
            Char => &["ch"],
            Bool => &["b"],
            Date => &["d"],
            Timestamp => &["ts"],
            Timestamptz => &["tz"],
            Interval => &["iv"],
            Uuid => &["u"],
            Json => &["j"],
            Ints => &["ai"],
            Texts => &["at"],
            Mood => &["m"],
            Inet => &["ip"],
            Bytes => &["by"],
            Range => &["r"],
        }
    }

    /// The type that a cast of a literal or parameter names.
    fn type_name(self) -> &'static str {
        match self {
            Int => "int4",
            Numeric => "numeric",
            Float => "float8",
            Text => "text",
            Char => "bpchar",
            Bool => "bool",
            Date => "date",
            Timestamp => "timestamp",
            Timestamptz => "timestamptz",
            Interval => "interval",
            Uuid => "uuid",
            Json => "jsonb",
            Ints => "int4[]",
            Texts => "text[]",
            Mood => "mood",
            Inet => "inet",
            Bytes => "bytea",
            Range => "int4range",
        }
    }
}

fn kind_of(column: &str) -> Kind {
    let kinds = [Bool, Json, Ints, Texts].into_iter().chain(COMPARED);
    kinds.into_iter().find(|kind| kind.columns().contains(&column)).expect("a column of the table")
}

/// A value as SQL, and as a parameter.
struct Literal {
    sql: String,
    json: Value,
}

fn text(text: &str) -> Literal {
    Literal { sql: format!("'{}'", text.replace('\'', "''")), json: json!(text) }
}

fn literal(dice: &mut Dice, kind: Kind) -> Literal {
    const WORDS: [&str; 12] = ["", "a", "A", "ab", "Ab", "abc", "Zebra", "été", "it's", "100%", "a_b\\", "10"];
    let day = dice.i32(1..28);
    match kind {
        Int => number(dice.i32(-20..120).to_string()),
        Numeric => {
            let number = ["0", "0.00", "1.5", "1.50", "-3.25", "99.99", "12345.6", "0.001"][dice.usize(..8)];
            Literal { sql: number.to_owned(), json: json!(number) }
        }
        Float => number(["0.0", "1.5", "-2.25", "1e10", "0.1", "33.3"][dice.usize(..6)].to_owned()),
        Text => text(WORDS[dice.usize(..WORDS.len())]),
        Char => text(["", "a", "ab", "ab  ", "Zebra"][dice.usize(..5)]),
        Bool => {
            let value = dice.bool();
            Literal { sql: value.to_string(), json: json!(value) }
        }
        Date => text(
            &[format!("2024-02-{day:02}"), "infinity".to_owned(), format!("0044-03-{day:02} BC")]
                [dice.usize(..30) / 14],
        ),
        Timestamp => text(&format!("2024-02-{day:02} {:02}:30:00.25", dice.u8(..24))),
        Timestamptz => text(&format!("2024-02-{day:02}T{:02}:30:00+0{}:30", dice.u8(..24), dice.u8(..6))),
        Interval => {
            text(["1 day", "24 hours", "1 month", "-3 days 04:05", "1 year 2 mons", "30 days"][dice.usize(..6)])
        }
        Uuid => text(&format!("00000000-0000-4000-8000-00000000000{}", dice.u8(..6))),
        Json => {
            let a = [json!(1), json!("x"), json!([1, null]), json!([1, 2]), json!({"b": 1.50}), json!(true)]
                [dice.usize(..6)]
            .clone();
            let value = [json!({"a": a, "k": dice.u8(..4)}), json!([a, "x", 2]), a][dice.usize(..8) / 3].clone();
            Literal { sql: text(&value.to_string()).sql, json: value }
        }
        Ints => {
            let values: Vec<Option<i32>> =
                (0..dice.u8(..4)).map(|_| (dice.u8(..8) > 0).then(|| dice.i32(..6).rem_euclid(6))).collect();
            Literal { sql: array(values.iter().map(|v| v.map(|v| v.to_string()))), json: json!(values) }
        }
        Texts => {
            let values: Vec<&str> = (0..dice.u8(..4)).map(|_| WORDS[dice.usize(..8)]).collect();
            Literal { sql: array(values.iter().map(|v| Some(format!("\"{v}\"")))), json: json!(values) }
        }
        Mood => text(["sad", "ok", "happy"][dice.usize(..3)]),
        Inet => text(["10.0.0.1", "10.0.0.0/8", "10.1.0.0/16", "::1", "192.168.1.7"][dice.usize(..5)]),
        Bytes => [("''", ""), ("'\\x00ff'", "AP8="), ("'\\x616263'", "YWJj"), ("'\\x61'", "YQ==")]
            .map(|(sql, json)| Literal { sql: sql.to_owned(), json: json!(json) })
            .into_iter()
            .nth(dice.usize(..4))
            .expect("one of four"),
        Range => {
            let low = dice.i32(..20).rem_euclid(20);
            text(&[format!("[{low},{})", low + 5), format!("({low},)"), "empty".to_owned()][dice.usize(..10) / 4])
        }
    }
}

fn number(text: String) -> Literal {
    let json = serde_json::from_str(&text).expect("a number");
    Literal { sql: text, json }
}

fn array(values: impl Iterator<Item = Option<String>>) -> String {
    let values: Vec<String> = values.map(|v| v.unwrap_or_else(|| "NULL".to_owned())).collect();
    format!("'{{{}}}'", values.join(",").replace('\'', "''"))
}

struct Maker<'a> {
    dice: &'a mut Dice,
    params: Vec<Value>,
    arguments: Vec<String>,
}

impl Maker<'_> {
    fn pick<'b>(&mut self, of: &[&'b str]) -> &'b str {
        of[self.dice.usize(..of.len())]
    }

    fn column(&mut self, kind: Kind) -> String {
        let name = self.pick(kind.columns());
        if self.dice.u8(..10) == 0 { format!("\"{name}\"") } else { name.to_owned() }
    }

    /// A literal or a parameter, with its type where its use does not tell it.
    fn constant(&mut self, kind: Kind, typed: bool) -> String {
        let value = literal(self.dice, kind);
        let said = if self.dice.bool() {
            self.params.push(value.json);
            self.arguments.push(value.sql);
            format!("${}", self.params.len())
        } else if value.sql.starts_with('-') {
            format!("({})", value.sql)
        } else {
            value.sql
        };
        if typed { format!("{said}::{}", kind.type_name()) } else { said }
    }

    fn boolean(&mut self, depth: u32) -> String {
        if depth == 0 {
            return self.test(1);
        }
        match self.dice.u8(..12) {
            0..=2 => format!("({} AND {})", self.boolean(depth - 1), self.boolean(depth - 1)),
            3..=5 => format!("({} OR {})", self.boolean(depth - 1), self.boolean(depth - 1)),
            6 => format!("NOT {}", self.boolean(depth - 1)),
            7 => {
                let is = self.pick(&["IS TRUE", "IS NOT TRUE", "IS FALSE", "IS UNKNOWN", "IS NOT UNKNOWN"]);
                format!("({}) {is}", self.boolean(depth - 1))
            }
            8 => format!(
                "CASE WHEN {} THEN {} ELSE {} END",
                self.boolean(depth - 1),
                self.boolean(depth - 1),
                self.boolean(depth - 1)
            ),
            9 => format!("coalesce({}, {})", self.boolean(depth - 1), self.constant(Bool, true)),
            _ => self.test(depth),
        }
    }

    /// A condition without AND, OR and NOT at its top.
    fn test(&mut self, depth: u32) -> String {
        match self.dice.u8(..12) {
            0 => self.column(Bool),
            1 => {
                let kind = COMPARED[self.dice.usize(..COMPARED.len())];
                let is = self.pick(&["IS NULL", "IS NOT NULL"]);
                format!("{} {is}", self.value(kind, depth))
            }
            2 => self.like(depth),
            3 => self.json_test(),
            4 => self.array_test(),
            5 => self.mixed(depth),
            6 => match self.dice.u8(..4) {
                0 => format!("r @> {}::int4", self.column(Int)),
                1 => format!("r && {}", self.constant(Range, false)),
                2 => format!("ip {} {}", self.pick(&["<<", "<<=", ">>", ">>=", "&&"]), self.constant(Inet, true)),
                _ => format!(
                    "(i4, s) {} ({}, {})",
                    self.pick(&["<", ">=", "="]),
                    self.constant(Int, true),
                    self.constant(Text, true)
                ),
            },
            _ => {
                let kind = COMPARED[self.dice.usize(..COMPARED.len())];
                self.comparison(kind, depth)
            }
        }
    }

    fn comparison(&mut self, kind: Kind, depth: u32) -> String {
        let left = self.value(kind, depth);
        let collate = if matches!(kind, Text | Char) { self.pick(&["", " COLLATE \"C\""]) } else { "" };
        let plain = kind.columns().contains(&left.as_str());
        match self.dice.u8(..8) {
            0 => format!("{left} BETWEEN {} AND {}", self.constant(kind, true), self.constant(kind, true)),
            1 => {
                let list: Vec<String> = (0..self.dice.u8(1..5)).map(|_| self.constant(kind, true)).collect();
                format!("{left} {} ({})", self.pick(&["IN", "NOT IN"]), list.join(", "))
            }
            2 => format!("{left} IS {}DISTINCT FROM {}", self.pick(&["", "NOT "]), self.constant(kind, true)),
            3 if !matches!(kind, Text | Char) => {
                let (operator, right) = (self.pick(&["=", "<>", "<", ">="]), self.value(kind, depth));
                format!("{left} {operator} {right}")
            }
            _ => {
                let operator = self.pick(&["=", "<>", "<", "<=", ">", ">=", "="]);
                format!("{left} {operator} {}{collate}", self.constant(kind, !plain || !collate.is_empty()))
            }
        }
    }

    fn like(&mut self, depth: u32) -> String {
        let pattern = ["a%", "%b%", "_b%", "A_", "100\\%", "", "%é", "%\\\\"][self.dice.usize(..8)];
        let like = self.pick(&["LIKE", "NOT LIKE", "ILIKE"]);
        let value = self.value(Text, depth);
        self.params.push(json!(pattern));
        self.arguments.push(text(pattern).sql);
        format!("{value} {like} ${}", self.params.len())
    }

    fn json_test(&mut self) -> String {
        match self.dice.u8(..6) {
            0 => format!("j @> {}", self.constant(Json, false)),
            1 => format!("j ? {}", self.pick(&["'a'", "'k'", "'x'"])),
            2 => format!("j->>'a' = {}", self.constant(Text, false)),
            3 => format!("(j->>'k')::int4 > {}", self.dice.u8(..4)),
            4 => format!("j #>> '{{a,0}}' = {}", self.pick(&["'1'", "'x'"])),
            _ => format!("j['a'] = {}", self.constant(Json, false)),
        }
    }

    fn array_test(&mut self) -> String {
        match self.dice.u8(..7) {
            0 => format!("ai && {}", self.constant(Ints, false)),
            1 => format!("at @> {}", self.constant(Texts, false)),
            2 => format!("{} = ANY (ai)", self.value(Int, 0)),
            3 => format!("i4 {} ({})", self.pick(&["= ANY", "<> ALL"]), self.constant(Ints, true)),
            4 => format!("s = ANY ({})", self.constant(Texts, true)),
            5 => format!("coalesce(array_length(ai, 1), 0) = {}", self.dice.u8(..4)),
            _ => format!("ai[{}] = {}", self.dice.u8(1..3), self.value(Int, 0)),
        }
    }

    /// Values of different types, and what the time zone decides.
    fn mixed(&mut self, depth: u32) -> String {
        let operator = self.pick(&["=", "<", ">="]);
        match self.dice.u8(..8) {
            0 => format!("{} {operator} {}", self.value(Int, depth), self.value(Numeric, depth)),
            1 => format!("{} {operator} {}", self.value(Float, depth), self.value(Int, depth)),
            2 => format!("d {operator} {}", self.value(Timestamptz, depth)),
            3 => format!("ts {operator} {}", self.value(Timestamptz, depth)),
            4 => format!("tz::date {operator} {}", self.value(Date, depth)),
            5 => format!("(tz AT TIME ZONE 'America/New_York')::date {operator} {}", self.value(Date, depth)),
            6 => format!("date_trunc('day', tz) {operator} {}", self.value(Timestamptz, depth)),
            _ => format!(
                "extract({} FROM {}) {operator} {}",
                self.pick(&["day", "hour", "dow"]),
                self.pick(&["ts", "tz"]),
                self.dice.u8(..24)
            ),
        }
    }

    /// A value of a kind. A constant has a type.
    fn value(&mut self, kind: Kind, depth: u32) -> String {
        if depth == 0 || self.dice.bool() {
            return if self.dice.u8(..6) == 0 { self.constant(kind, true) } else { self.column(kind) };
        }
        let d = depth - 1;
        match (kind, self.dice.u8(..4)) {
            (Int, 0) => format!("({} % 7)", self.column(Int)),
            (Int, 1) => format!("length({})", self.value(Text, d)),
            (Int, 2) => format!("({} {} {})::int8", self.column(Int), self.pick(&["+", "-", "*"]), self.dice.u8(1..9)),
            (Numeric, 0) => format!("round({}, {})", self.value(Numeric, d), self.dice.u8(..3)),
            (Numeric, 1) => {
                format!("({} {} {})", self.value(Numeric, d), self.pick(&["+", "-", "*"]), self.value(Numeric, 0))
            }
            (Numeric, 2) => format!("({} / nullif({}, 0))", self.value(Numeric, d), self.value(Numeric, 0)),
            (Numeric | Float | Int, 3) => format!("abs({})", self.value(kind, d)),
            (Float, 0) => format!("(f {} 1.5::float8)", self.pick(&["+", "-", "*", "/"])),
            (Float, 1) => format!("floor({})", self.value(Float, d)),
            (Text, 0) => format!("{}({})", self.pick(&["lower", "upper", "btrim", "reverse"]), self.value(Text, d)),
            (Text, 1) => format!("({} || {})", self.column(Text), self.constant(Text, true)),
            (Text, 2) => {
                format!("{}({}, {})", self.pick(&["left", "right", "substr"]), self.value(Text, d), self.dice.u8(1..4))
            }
            (Text, _) => format!("coalesce({}, {})", self.column(Text), self.constant(Text, true)),
            (Date, 0) => format!("({} + {})", self.value(Date, d), self.dice.u8(..40)),
            (Date, 1) => "ts::date".to_owned(),
            (Timestamp, 0) => "date_trunc('month', ts)".to_owned(),
            (Timestamp, 1) => format!("(ts + {})", self.constant(Interval, true)),
            (Timestamptz, 0) => format!("(tz {} {})", self.pick(&["+", "-"]), self.constant(Interval, true)),
            (Timestamptz, 1) => "ts::timestamptz".to_owned(),
            (Interval, 0) => "(ts - '2024-02-10'::timestamp)".to_owned(),
            (Range, 0) => format!("(r * {})", self.constant(Range, true)),
            (Int | Date | Timestamptz | Interval | Mood | Uuid, _) => {
                let function = match kind {
                    Uuid => "coalesce",
                    _ => self.pick(&["coalesce", "greatest", "least", "nullif"]),
                };
                format!("{function}({}, {})", self.value(kind, d), self.constant(kind, true))
            }
            _ => self.column(kind),
        }
    }
}
