//! Tokens that nobody with a key has made.

use super::*;
use crate::auth::MAX_TOKEN;
use Algorithm::{HS256, HS384, HS512, RS256};

fn refused(token: &str, keys: &Keys) -> AuthError {
    verify(token, keys, &rules(), NOW).expect_err("refused")
}

#[test]
fn none_is_no_algorithm() {
    let keys = secret().and(&jwks(&[jwk("rsa"), jwk("ed")]));
    for none in ["none", "None", "NONE", "nOnE", "", "HS256 ", "hs256", "HS1", "dir", "A128KW"] {
        let head = b64(json!({"alg": none}).to_string());
        let payload = b64(json!({"role": "postgres"}).to_string());
        for signature in ["", "AA", "e30"] {
            assert_eq!(refused(&format!("{head}.{payload}.{signature}"), &keys), AuthError::Algorithm, "{none:?}");
        }
    }
    for head in [json!({}), json!({"alg": null}), json!({"alg": 1}), json!({"alg": ["HS256"]})] {
        assert_eq!(refused(&format!("{}.e30.AA", b64(head.to_string())), &keys), AuthError::Malformed);
    }
}

#[test]
fn a_public_key_is_never_a_shared_secret() {
    let der = URL_SAFE_NO_PAD.decode(fixture("rsa")["private"].as_str().expect("der")).expect("base64");
    let n = URL_SAFE_NO_PAD.decode(jwk("rsa")["n"].as_str().expect("n")).expect("base64");
    // PKCS #1: SEQUENCE of the two integers, as an attacker would write it.
    let mut pkcs1 = vec![0x30, 0x82, 0x01, 0x0a, 0x02, 0x82, 0x01, 0x01, 0x00];
    pkcs1.extend_from_slice(&n);
    pkcs1.extend_from_slice(&[0x02, 0x03, 0x01, 0x00, 0x01]);
    let pem = |label: &str, der: &[u8]| {
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        let lines: Vec<&str> = (0..text.len()).step_by(64).map(|i| &text[i..(i + 64).min(text.len())]).collect();
        format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
    };
    let forms: Vec<Vec<u8>> = vec![
        pem("RSA PUBLIC KEY", &pkcs1).into_bytes(),
        pem("RSA PUBLIC KEY", &pkcs1).trim_end().as_bytes().to_vec(),
        pkcs1,
        n.clone(),
        jwk("rsa")["n"].as_str().expect("n").as_bytes().to_vec(),
        jwk("rsa").to_string().into_bytes(),
        der,
        Vec::new(),
    ];
    for keys in [jwks(&[jwk("rsa")]), jwks(&[jwk("rsa")]).and(&secret())] {
        for form in &forms {
            for algorithm in [HS256, HS384, HS512] {
                let key = EncodingKey::from_secret(form);
                let token = sign(&json!({"role": "postgres"}), &key, algorithm);
                let why = refused(&token, &keys);
                assert!(matches!(why, AuthError::UnknownKey | AuthError::Signature), "{why}");
                let header = json!({"alg": algorithm, "kid": "rsa"}).to_string();
                let token = sign_texts(&header, "{}", &key, algorithm);
                assert_eq!(refused(&token, &keys), AuthError::UnknownKey);
            }
        }
    }
}

#[test]
fn no_byte_of_a_token_can_be_changed() {
    for (token, keys) in [
        (sign_secret(&json!({"role": "r", "exp": NOW + 60})), secret()),
        (sign(&json!({"role": "r"}), &private("p256"), Algorithm::ES256), jwks(&[jwk("p256")])),
        (sign(&json!({"role": "r"}), &private("ed"), Algorithm::EdDSA), jwks(&[jwk("ed")])),
    ] {
        assert!(verify(&token, &keys, &rules(), NOW).is_ok());
        for at in 0..token.len() {
            for byte in [b'A', b'_', b'.', b'='] {
                let mut forged = token.clone().into_bytes();
                if std::mem::replace(&mut forged[at], byte) == byte {
                    continue;
                }
                let forged = String::from_utf8(forged).expect("ascii");
                assert!(verify(&forged, &keys, &rules(), NOW).is_err(), "byte {at} of {token}");
            }
            assert!(verify(&token[..at], &keys, &rules(), NOW).is_err());
        }
        for longer in [format!("{token}."), format!("{token}A"), format!(" {token}"), format!("{token}\n")] {
            assert!(verify(&longer, &keys, &rules(), NOW).is_err());
        }
    }
}

#[test]
fn a_payload_with_another_tokens_signature_is_refused() {
    let mine = sign_secret(&json!({"role": "reader"}));
    let parts: Vec<&str> = mine.split('.').collect();
    let payload = b64(json!({"role": "writer"}).to_string());
    assert_eq!(refused(&format!("{}.{payload}.{}", parts[0], parts[2]), &secret()), AuthError::Signature);
    let head = b64(json!({"alg": "HS384"}).to_string());
    assert_eq!(refused(&format!("{head}.{}.{}", parts[1], parts[2]), &secret()), AuthError::Signature);
    assert_eq!(refused(&format!("{}.{}.", parts[0], parts[1]), &secret()), AuthError::Signature);
    let foreign = EncodingKey::from_secret(b"9dK2-another-secret-of-some-length-4Lq8");
    assert_eq!(refused(&sign(&json!({"role": "r"}), &foreign, HS256), &secret()), AuthError::Signature);
}

#[test]
fn headers_that_ask_for_more_are_refused() {
    let signed = |header: Value| sign_texts(&header.to_string(), "{}", &EncodingKey::from_secret(SECRET), HS256);
    assert_eq!(refused(&signed(json!({"alg": "HS256", "crit": ["exp"]})), &secret()), AuthError::Critical);
    assert_eq!(refused(&signed(json!({"alg": "HS256", "crit": []})), &secret()), AuthError::Critical);
    assert_eq!(
        refused(&signed(json!({"alg": "HS256", "b64": false, "crit": ["b64"]})), &secret()),
        AuthError::Critical
    );
    // Keys that a token brings along count for nothing.
    let own = EncodingKey::from_secret(b"9dK2-another-secret-of-some-length-4Lq8");
    let header = json!({"alg": "HS256", "jwk": {"kty": "oct", "k": b64("9dK2-another-secret-of-some-length-4Lq8")},
                        "jku": "https://attacker.example/jwks.json", "x5u": "https://attacker.example"});
    assert_eq!(refused(&sign_texts(&header.to_string(), "{}", &own, HS256), &secret()), AuthError::Signature);
}

#[test]
fn what_is_named_twice_is_refused() {
    let key = EncodingKey::from_secret(SECRET);
    for (header, payload) in [
        (r#"{"alg":"HS256","alg":"HS256"}"#, "{}"),
        (r#"{"alg":"HS256"}"#, r#"{"role":"a","role":"b"}"#),
        (r#"{"alg":"HS256"}"#, r#"{"role":"a","ro\u006ce":"b"}"#),
        (r#"{"alg":"HS256"}"#, r#"{"x":[{"y":1,"y":2}]}"#),
        (r#"{"alg":"HS256"}"#, r#"{"role":"a\u0000"}"#),
        (r#"{"alg":"HS256"}"#, r#"{"a\u0000":1}"#),
        (r#"{"alg":"HS256"}"#, "[]"),
        (r#"{"alg":"HS256"}"#, "\"role\""),
        (r#"{"alg":"HS256"}"#, "{} {}"),
        (r#"{"alg":"HS256"}"#, ""),
    ] {
        assert_eq!(refused(&sign_texts(header, payload, &key, HS256), &secret()), AuthError::Malformed, "{payload}");
    }
    let not_utf8 = [b64(r#"{"alg":"HS256"}"#), b64(b"{\"role\":\"\xff\"}")].join(".");
    let signature = jsonwebtoken::crypto::sign(not_utf8.as_bytes(), &key, HS256).expect("signature");
    assert_eq!(refused(&format!("{not_utf8}.{signature}"), &secret()), AuthError::Malformed);
    let deep = format!("{}1{}", "[".repeat(5000), "]".repeat(5000));
    let token = sign_texts(r#"{"alg":"HS256"}"#, &format!("{{\"x\":{deep}}}"), &key, HS256);
    assert_eq!(refused(&token, &secret()), AuthError::Malformed, "deep nesting is no stack overflow");
}

#[test]
fn oversized_tokens_are_refused_unread() {
    let pad = |n: usize| sign_secret(&json!({"pad": "x".repeat(n)}));
    assert!(verify(&pad(8000), &secret(), &rules(), NOW).is_ok());
    assert_eq!(refused(&pad(13_000), &secret()), AuthError::TooLong);
    assert_eq!(refused(&".".repeat(MAX_TOKEN + 1), &secret()), AuthError::TooLong);
}

/// A small generator, so that a failure can be run again.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % n
    }
}

#[test]
fn garbage_is_refused_and_never_panics() {
    let keys = secret().and(&jwks(&[jwk("rsa"), jwk("p256"), jwk("p384"), jwk("ed")]));
    let mut dice = Dice(20_261_121);
    let good = [
        sign_secret(&json!({"role": "r", "exp": NOW + 60, "aud": ["a"]})),
        sign(&json!({"role": "r"}), &private("rsa"), RS256),
        sign(&json!({"role": "r"}), &private("p384"), Algorithm::ES384),
        sign(&json!({"role": "r"}), &private("ed"), Algorithm::EdDSA),
    ];
    let names = ["HS256", "HS512", "RS256", "PS512", "ES256", "ES384", "EdDSA", "none"];
    for round in 0..3000 {
        let token = match round % 3 {
            // Any text of the alphabet, with dots.
            0 => (0..dice.roll(400)).map(|_| char::from(b"AZaz09-_.=\xc3\x20"[dice.roll(11)])).collect(),
            // A good one with some bytes changed, dropped and doubled.
            1 => {
                let mut bytes = good[dice.roll(good.len())].clone().into_bytes();
                for _ in 0..=dice.roll(4) {
                    let at = dice.roll(bytes.len());
                    match dice.roll(3) {
                        0 => bytes[at] = b"Az0-_."[dice.roll(6)],
                        1 => drop(bytes.remove(at)),
                        _ => bytes.insert(at, bytes[at]),
                    }
                }
                String::from_utf8(bytes).expect("ascii")
            }
            // A well-formed one with a signature of any bytes.
            _ => {
                let head = b64(json!({"alg": names[dice.roll(names.len())]}).to_string());
                let signature: Vec<u8> = (0..dice.roll(300)).map(|_| dice.roll(256) as u8).collect();
                format!("{head}.e30.{}", b64(signature))
            }
        };
        let accepted = verify(&token, &keys, &rules(), NOW).is_ok();
        assert!(!accepted || good.contains(&token), "round {round}: {token}");
    }
}
