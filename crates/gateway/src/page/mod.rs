//! The pages that the gateway serves: the dashboard, one registered table at a time, and one table as several visitors see it.
//!
//! Each is put together once from the files beside this one and is whole in itself: it needs no other request and no
//! network beyond the gateway. Tokens of the second stand behind the `#` of its address, so none ever comes here with a
//! request. Pure.

use std::sync::LazyLock;

/// What a page may do. Nothing from elsewhere, and no element's content is ever made from a string of markup.
pub const POLICY: &str = "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; \
     connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Files that pages are made of. A page names one by `{{name}}`.
const PARTS: &[(&str, &str)] = &[
    ("{{base.css}}", include_str!("base.css")),
    ("{{dashboard.css}}", include_str!("dashboard.css")),
    ("{{tables.css}}", include_str!("tables.css")),
    ("{{compare.css}}", include_str!("compare.css")),
    ("{{base.js}}", include_str!("base.js")),
    ("{{formats.js}}", include_str!("formats.js")),
    ("{{plot.js}}", include_str!("plot.js")),
    ("{{stats.js}}", include_str!("stats.js")),
    ("{{lists.js}}", include_str!("lists.js")),
    ("{{dashboard.js}}", include_str!("dashboard.js")),
    ("{{copy.js}}", include_str!("copy.js")),
    ("{{connection.js}}", include_str!("connection.js")),
    ("{{figures.js}}", include_str!("figures.js")),
    ("{{screen.js}}", include_str!("screen.js")),
    ("{{tables.js}}", include_str!("tables.js")),
    ("{{pane.js}}", include_str!("pane.js")),
    ("{{compare.js}}", include_str!("compare.js")),
];

static DASHBOARD: LazyLock<String> = LazyLock::new(|| assemble(include_str!("dashboard.html")));
static TABLES: LazyLock<String> = LazyLock::new(|| assemble(include_str!("tables.html")));
static COMPARE: LazyLock<String> = LazyLock::new(|| assemble(include_str!("compare.html")));

/// The page at this path.
pub fn at(path: &str) -> Option<&'static str> {
    match path {
        "/" => Some(&DASHBOARD),
        "/tables" => Some(&TABLES),
        "/compare" => Some(&COMPARE),
        _ => None,
    }
}

fn assemble(frame: &str) -> String {
    PARTS.iter().fold(frame.to_owned(), |page, (name, part)| page.replace(name, part.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_a_page_is_in_it() {
        for path in ["/", "/tables", "/compare"] {
            let page = at(path).expect("page");
            assert!(page.ends_with("</html>\n"), "{path}");
            assert!(!page.contains("{{"), "{path}: {:?}", page.split("{{").nth(1).map(|rest| &rest[..20]));
            assert_eq!(page.matches("<script>").count(), page.matches("</script>").count(), "{path}");
        }
        assert_eq!(at("/index.html"), None);
    }

    #[test]
    fn pages_need_nothing_from_elsewhere_and_make_no_markup_of_data() {
        for path in ["/", "/tables", "/compare"] {
            let page = at(path).expect("page");
            // The one address is the namespace of the icon, which nobody fetches.
            let addresses = page.replace("http://www.w3.org/2000/svg", "");
            assert!(!addresses.contains("://"), "{path}: {:?}", addresses.split("://").nth(1).map(|rest| &rest[..40]));
            for way in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"] {
                assert!(!page.contains(way), "{path}: {way}");
            }
        }
    }
}
