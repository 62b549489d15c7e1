//! When and where a genuine token counts, and what it says.

use super::*;
use crate::auth::{PathError, vouched};

#[test]
fn a_token_counts_until_it_expires_and_not_a_second_longer() {
    let at = |exp: Value| said(&json!({ "exp": exp }), &rules());
    assert_eq!(at(json!(NOW + 60)).expect("valid").expires_at, Some(NOW + 90));
    assert!(at(json!(NOW - 29)).is_ok(), "within the leeway");
    assert_eq!(at(json!(NOW - 30)), Err(AuthError::Expired));
    assert_eq!(at(json!(0)), Err(AuthError::Expired));
    assert_eq!(at(json!(-5)), Err(AuthError::Expired));
    assert_eq!(at(json!(NOW as f64 - 29.5)), Err(AuthError::Expired), "a fraction is cut");
    assert_eq!(at(json!(u64::MAX)).expect("valid").expires_at, Some(u64::MAX));
    assert_eq!(at(json!(1e300)).expect("valid").expires_at, Some(u64::MAX));
    for strange in [json!("1800000000"), json!(true), json!([NOW]), json!({})] {
        assert_eq!(at(strange), Err(AuthError::Malformed));
    }
    assert_eq!(at(json!(null)).expect("valid").expires_at, None);
    assert_eq!(said(&json!({}), &rules()).expect("valid").expires_at, None);
    let strict = Rules { leeway_s: 0, ..rules() };
    assert!(said(&json!({"exp": NOW + 1}), &strict).is_ok());
    assert_eq!(said(&json!({"exp": NOW}), &strict), Err(AuthError::Expired));
}

#[test]
fn a_token_counts_from_its_time_on() {
    assert!(said(&json!({"nbf": NOW + 30}), &rules()).is_ok());
    assert_eq!(said(&json!({"nbf": NOW + 31}), &rules()), Err(AuthError::NotYetValid));
    assert!(said(&json!({"iat": NOW + 30}), &rules()).is_ok());
    assert_eq!(said(&json!({"iat": NOW + 31}), &rules()), Err(AuthError::IssuedLater));
    assert_eq!(said(&json!({"nbf": "soon"}), &rules()), Err(AuthError::Malformed));
    assert_eq!(said(&json!({"iat": {}}), &rules()), Err(AuthError::Malformed));
}

#[test]
fn audience_and_issuer_are_ours() {
    let ours = Rules { audience: Some("app".into()), issuer: Some("https://id.example".into()), ..rules() };
    let verdict = |aud: Value, iss: Value| said(&json!({"aud": aud, "iss": iss}), &ours).map(|_| ());
    let iss = json!("https://id.example");
    assert_eq!(verdict(json!("app"), iss.clone()), Ok(()));
    assert_eq!(verdict(json!(["other", "app"]), iss.clone()), Ok(()));
    for aud in
        [json!("App"), json!("apps"), json!(["other"]), json!([["app"]]), json!([]), json!(null), json!({"app": 1})]
    {
        assert_eq!(verdict(aud.clone(), iss.clone()), Err(AuthError::Audience), "{aud}");
    }
    assert_eq!(said(&json!({"iss": iss}), &ours), Err(AuthError::Audience), "without one");
    for iss in [json!("https://id.example/"), json!(["https://id.example"]), json!(null)] {
        assert_eq!(verdict(json!("app"), iss), Err(AuthError::Issuer));
    }
    assert!(said(&json!({"aud": "anybody", "iss": "anybody"}), &rules()).is_ok(), "where none is asked for");
}

#[test]
fn the_role_lies_where_the_path_leads() {
    let claims = json!({
        "role": "plain", "n": 5, "nothing": null, "empty": "",
        "realm_access": {"roles": ["first", "second"]},
        "https://example.com/role": "quoted", "a": {"b.c": [[{"d": "deep"}]]},
    });
    let role = |path: &str| {
        let rules = Rules { role_claim: ClaimPath::parse(path).expect(path), ..rules() };
        said(&claims, &rules).map(|claims| claims.role)
    };
    let is = |text: &str| Ok(Some(text.to_owned()));
    assert_eq!(role(".role"), is("plain"));
    assert_eq!(role("role"), is("plain"));
    assert_eq!(role(".realm_access.roles[0]"), is("first"));
    assert_eq!(role(".realm_access.roles[1]"), is("second"));
    assert_eq!(role(".\"https://example.com/role\""), is("quoted"));
    assert_eq!(role(".a.\"b.c\"[0][0].d"), is("deep"));
    for nothing in [".missing", ".nothing", ".realm_access.roles[2]", ".role.x", ".role[0]", ".realm_access[0]"] {
        assert_eq!(role(nothing), Ok(None), "{nothing}");
    }
    for strange in [".n", ".empty", ".realm_access", ".realm_access.roles"] {
        assert_eq!(role(strange), Err(AuthError::RoleClaim), "{strange}");
    }
}

#[test]
fn paths_that_are_none_are_refused() {
    for (text, at) in [
        ("", 1),
        (".", 1),
        ("..a", 1),
        ("[0]", 1),
        (".a[", 3),
        (".a[x]", 3),
        (".a[-1]", 3),
        (".a[99999999999999999999999]", 3),
        (".\"a", 1),
        (".\"\"", 1),
        (".a b", 3),
        (".a.", 3),
        ("\"a\"", 1),
        (".ä.", 3),
        (".a[0]b", 6),
        (".a[]", 3),
    ] {
        assert_eq!(ClaimPath::parse(text), Err(PathError(at)), "{text}");
    }
}

#[test]
fn a_tenant_is_a_text_or_an_integer() {
    let tenant = |value: Value| said(&json!({ "tenant": value }), &rules()).map(|claims| claims.tenant);
    assert_eq!(tenant(json!("acme")), Ok(Some("acme".into())));
    assert_eq!(tenant(json!(42)), Ok(Some("42".into())));
    assert_eq!(tenant(json!(-1)), Ok(Some("-1".into())));
    assert_eq!(tenant(json!(null)), Ok(None));
    for strange in [json!(""), json!(1.5), json!(true), json!(["acme"]), json!({})] {
        assert_eq!(tenant(strange), Err(AuthError::TenantClaim));
    }
}

#[test]
fn claims_stay_as_they_were_signed() {
    let payload = r#"{ "role":"r", "big":12345678901234567890123, "price":1.10, "é":"\u00e9" }"#;
    let key = EncodingKey::from_secret(SECRET);
    let token = sign_texts(r#"{"alg":"HS256"}"#, payload, &key, Algorithm::HS256);
    let claims = verify(&token, &secret(), &rules(), NOW).expect("valid");
    assert_eq!(claims.json, payload);
    assert_eq!(claims.json_with_role("r"), payload, "which has the role already");
    let other = claims.json_with_role("x\"y");
    assert_eq!(other, r#"{"role":"x\"y","big":12345678901234567890123,"price":1.10,"é":"\u00e9"}"#);
    let bare = said(&json!({}), &rules()).expect("valid");
    assert_eq!(bare.json_with_role("anon"), r#"{"role":"anon"}"#);
}

#[test]
fn vouched_claims_are_checked_for_their_times() {
    let look = |json: &str| vouched(json.to_owned(), &rules(), NOW);
    let claims = look(&json!({"exp": NOW + 5, "tenant": 7, "role": "ignored"}).to_string()).expect("valid");
    assert_eq!((claims.expires_at, claims.tenant.as_deref(), claims.role), (Some(NOW + 5), Some("7"), None));
    assert_eq!(look(&json!({ "exp": NOW }).to_string()), Err(AuthError::Expired), "by one clock, without leeway");
    assert_eq!(look("[]"), Err(AuthError::Malformed));
    assert_eq!(look(r#"{"a":1,"a":2}"#), Err(AuthError::Malformed));
}

#[test]
fn clients_are_told_nothing_that_helps_to_forge() {
    assert_eq!(AuthError::Expired.for_client(), "the token has expired");
    for error in [AuthError::Signature, AuthError::UnknownKey, AuthError::Audience, AuthError::Malformed] {
        assert_eq!(error.for_client(), "the token is not accepted");
    }
}
