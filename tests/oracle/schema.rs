//! Random tables: names, types, keys, partitions, and literals for their columns.

use rte_testkit::Dice;

/// A column and how its values are made.
#[derive(Debug, Clone)]
pub struct Column {
    pub name: String,
    pub kind: &'static str,
}

/// A table with its key first.
#[derive(Debug, Clone)]
pub struct Table {
    /// Quoted.
    pub name: String,
    pub columns: Vec<Column>,
    pub keys: usize,
    partitioned: bool,
    /// Registered with these columns only.
    registered: Option<Vec<String>>,
}

const KEY_KINDS: [&str; 6] = ["int4", "int8", "text", "uuid", "numeric(8,2)", "date"];
const KINDS: [&str; 18] = [
    "int2",
    "int4",
    "int8",
    "numeric",
    "float8",
    "bool",
    "text",
    "varchar(200)",
    "bytea",
    "date",
    "timestamptz",
    "interval",
    "jsonb",
    "json",
    "int8[]",
    "text[]",
    "uuid",
    "int4range",
];
const NAMES: [&str; 12] = [
    "plain",
    "Größe",
    "two words",
    "quote\"d",
    "select",
    "表",
    "emoji 😀",
    "it's",
    "a.b",
    "back\\slash",
    "UPPER",
    "$1",
];

pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

impl Table {
    pub fn random(number: usize, dice: &mut Dice) -> Self {
        let name = quoted(&format!("{} {number}", NAMES[dice.usize(..NAMES.len())]));
        let keys = dice.usize(1..=3);
        let all = keys + dice.usize(1..8);
        let columns: Vec<Column> = (0..all)
            .map(|i| {
                let kinds: &[&'static str] = if i < keys { &KEY_KINDS } else { &KINDS };
                let name = format!("{}{i}", NAMES[dice.usize(..NAMES.len())]);
                Column { name: quoted(&name), kind: kinds[dice.usize(..kinds.len())] }
            })
            .collect();
        let registered = (dice.u32(..4) == 0).then(|| {
            columns.iter().enumerate().filter(|(i, _)| *i < keys || dice.bool()).map(|(_, c)| c.name.clone()).collect()
        });
        Self { name, columns, keys, partitioned: dice.u32(..3) == 0, registered }
    }

    /// Statements that make the table, its partitions and its registration. The table's columns are in a
    /// random order, so that the key may lie anywhere.
    pub fn create(&self, dice: &mut Dice) -> String {
        let mut columns: Vec<String> = self
            .columns
            .iter()
            .enumerate()
            .map(|(i, c)| format!("{} {}{}", c.name, c.kind, if i < self.keys { " NOT NULL" } else { "" }))
            .collect();
        dice.shuffle(&mut columns);
        let key: Vec<&str> = self.columns[..self.keys].iter().map(|c| c.name.as_str()).collect();
        let key = key.join(", ");
        let mut sql = format!("CREATE TABLE {} ({}, PRIMARY KEY ({key}))", self.name, columns.join(", "));
        if self.partitioned {
            sql += &format!(" PARTITION BY HASH ({key})");
            for n in 0..3 {
                let part = quoted(&format!("part {n} of {}", self.name.trim_matches('"').replace("\"\"", "\"")));
                let mut columns = columns.clone();
                dice.shuffle(&mut columns);
                sql += &format!("; CREATE TABLE {part} ({}, PRIMARY KEY ({key}))", columns.join(", "));
                let bounds = format!("FOR VALUES WITH (MODULUS 3, REMAINDER {n})");
                sql += &format!("; ALTER TABLE {} ATTACH PARTITION {part} {bounds}", self.name);
            }
        }
        let literal = |text: &str| format!("'{}'", text.replace('\'', "''"));
        let unquoted = |c: &String| literal(&c[1..c.len() - 1].replace("\"\"", "\""));
        let columns = self.registered.as_ref().map_or(String::new(), |columns| {
            format!(", columns => ARRAY[{}]::name[]", columns.iter().map(unquoted).collect::<Vec<_>>().join(", "))
        });
        sql + &format!("; SELECT rte.register_table({}{columns})", literal(&self.name))
    }

    /// A condition that names few rows or many.
    pub fn condition(&self, dice: &mut Dice) -> String {
        match dice.u32(..6) {
            0 => "true".into(),
            1 => format!("hashtext({}::text) % {} = 0", self.columns[0].name, dice.u32(2..6)),
            _ => {
                let keys = self.columns[..self.keys].iter();
                let equal = keys.map(|c| format!("{} = {}", c.name, c.value(dice, true)));
                equal.collect::<Vec<_>>().join(" AND ")
            }
        }
    }

    pub fn values(&self, dice: &mut Dice) -> String {
        let value = |(i, c): (usize, &Column)| c.value(dice, i < self.keys);
        self.columns.iter().enumerate().map(value).collect::<Vec<_>>().join(", ")
    }

    pub fn names(&self) -> String {
        self.columns.iter().map(|c| c.name.as_str()).collect::<Vec<_>>().join(", ")
    }
}

impl Column {
    /// A literal. Those of keys come from a small set, so that transactions meet.
    pub fn value(&self, dice: &mut Dice, key: bool) -> String {
        let n = dice.i64(0..if key { 6 } else { 1_000_000 });
        if !key && dice.u32(..8) == 0 {
            return "NULL".into();
        }
        match self.kind {
            "int2" => (n % 30_000).to_string(),
            "int4" => n.to_string(),
            "int8" => (9_007_199_254_740_990 + n).to_string(),
            "numeric" => [format!("{n}.{n:040}"), "'NaN'".into(), format!("-0.{n}")][dice.usize(..3)].clone(),
            "numeric(8,2)" => format!("{n}.5"),
            "float8" => [format!("{n}::float8 / 7"), "'-Infinity'".into(), "1e-300".into(), "'-0'".into()]
                [dice.usize(..4)]
            .clone(),
            "bool" => (n % 2 == 0).to_string(),
            "text" | "varchar(200)" if key => format!("'key ''{n}'' \"\\ é'"),
            "text" if dice.u32(..20) == 0 => format!("repeat(md5('{n}'), {})", dice.u32(1..3000)),
            "text" | "varchar(200)" => format!("E'v{n} \\t\\n\\x01 \"quoted\" \\'' || U&'\\+01F600'"),
            "bytea" => format!("decode(md5('{n}'), 'hex')"),
            "date" if dice.u32(..10) == 0 => "'infinity'".into(),
            "date" => format!("date '2000-01-01' + {}", n % 10_000),
            "timestamptz" => format!("timestamptz '2024-03-10 01:59:59.123+00' + interval '{n} seconds'"),
            "interval" => format!("interval '{n} seconds -{} days'", n % 40),
            "jsonb" => format!("jsonb_build_object('n', {n}, 'a', jsonb_build_array(null, 1.50, 'x\"'))"),
            "json" => format!("'{{\"b\": {n}, \"b\" : [1e400, {{}}]}}'"),
            "int8[]" => format!("ARRAY[{n}, NULL, 9007199254740993]::int8[]"),
            "text[]" => format!("ARRAY['{n}', NULL, 'a,b', '\"']"),
            "uuid" => format!("md5('{n}')::uuid"),
            "int4range" => format!("int4range({n}, NULL)"),
            other => unreachable!("{other}"),
        }
    }
}
