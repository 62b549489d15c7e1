//! Which keys verify which tokens.

use super::*;
use crate::auth::{KeyError, MAX_KEYS};
use Algorithm::{ES256, ES384, EdDSA, HS256, HS384, HS512, PS256, PS384, PS512, RS256, RS384, RS512};

const ALL: [Algorithm; 12] = [HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA];

fn signer(algorithm: Algorithm) -> (&'static str, EncodingKey) {
    match algorithm {
        HS256 | HS384 | HS512 => ("oct", EncodingKey::from_secret(SECRET)),
        ES256 => ("p256", private("p256")),
        ES384 => ("p384", private("p384")),
        EdDSA => ("ed", private("ed")),
        _ => ("rsa", private("rsa")),
    }
}

fn oct() -> Value {
    json!({"kty": "oct", "kid": "oct", "k": b64(SECRET)})
}

#[test]
fn every_algorithm_verifies_with_its_own_key_and_with_no_other() {
    let all = jwks(&[jwk("rsa"), jwk("p256"), jwk("p384"), jwk("ed"), oct()]);
    for algorithm in ALL {
        let (name, key) = signer(algorithm);
        let token = sign(&json!({"role": "r"}), &key, algorithm);
        assert!(verify(&token, &all, &rules(), NOW).is_ok(), "{algorithm:?}");
        let others: Vec<Value> = ["rsa", "p256", "p384", "ed", "oct"]
            .into_iter()
            .filter(|other| *other != name)
            .map(|other| if other == "oct" { oct() } else { jwk(other) })
            .collect();
        assert_eq!(verify(&token, &jwks(&others), &rules(), NOW), Err(AuthError::UnknownKey), "{algorithm:?}");
    }
}

#[test]
fn a_key_that_names_its_algorithm_serves_no_other() {
    for named in ALL {
        let (name, key) = signer(named);
        let mut jwk = if name == "oct" { oct() } else { jwk(name) };
        jwk["alg"] = json!(named);
        let keys = jwks(&[jwk]);
        for algorithm in ALL.into_iter().filter(|algorithm| signer(*algorithm).0 == name) {
            let token = sign(&json!({}), &key, algorithm);
            let verdict = verify(&token, &keys, &rules(), NOW).map(|_| ());
            let expected = if algorithm == named { Ok(()) } else { Err(AuthError::UnknownKey) };
            assert_eq!(verdict, expected, "{algorithm:?} with a key for {named:?}");
        }
    }
}

#[test]
fn a_key_id_is_respected() {
    let with_id = |id: &str, key: &str| {
        let mut jwk = jwk(key);
        jwk["kid"] = id.into();
        jwk
    };
    let token = |id: Value| {
        let header = json!({"alg": "RS256", "kid": id}).to_string();
        sign_texts(&header, "{}", &private("rsa"), RS256)
    };
    let keys = jwks(&[with_id("a", "rsa"), with_id("b", "p256")]);
    assert!(verify(&token(json!("a")), &keys, &rules(), NOW).is_ok());
    assert_eq!(verify(&token(json!("b")), &keys, &rules(), NOW), Err(AuthError::UnknownKey), "b is of another type");
    assert_eq!(verify(&token(json!("c")), &keys, &rules(), NOW), Err(AuthError::UnknownKey));
    assert_eq!(verify(&token(json!("")), &keys, &rules(), NOW), Err(AuthError::UnknownKey));
    for strange in [json!(1), json!(null), json!(["a"])] {
        assert_eq!(verify(&token(strange), &keys, &rules(), NOW), Err(AuthError::Malformed));
    }
    // A key without an id serves tokens of any that no key has.
    let mut plain = jwk("rsa");
    plain.as_object_mut().expect("object").remove("kid");
    let keys = jwks(&[plain, with_id("b", "p256")]);
    assert!(verify(&token(json!("new")), &keys, &rules(), NOW).is_ok());
    assert_eq!(verify(&token(json!("b")), &keys, &rules(), NOW), Err(AuthError::UnknownKey));
}

#[test]
fn keys_with_one_id_are_all_tried() {
    let mut other = jwk("rsa");
    let mut modulus = URL_SAFE_NO_PAD.decode(other["n"].as_str().expect("n")).expect("base64");
    *modulus.last_mut().expect("bytes") ^= 2;
    other["n"] = b64(&modulus).into();
    let keys = jwks(&[other.clone(), jwk("rsa")]);
    let token = sign(&json!({}), &private("rsa"), RS256);
    assert!(verify(&token, &keys, &rules(), NOW).is_ok());
    assert_eq!(verify(&token, &jwks(&[other]), &rules(), NOW), Err(AuthError::Signature));
}

#[test]
fn secret_and_document_count_together() {
    let keys = secret().and(&jwks(&[jwk("p256")]));
    assert!(verify(&sign_secret(&json!({})), &keys, &rules(), NOW).is_ok());
    assert!(verify(&sign(&json!({}), &private("p256"), ES256), &keys, &rules(), NOW).is_ok());
    assert_eq!(verify(&sign_secret(&json!({})), &Keys::none(), &rules(), NOW), Err(AuthError::UnknownKey));
}

#[test]
fn a_secret_serves_only_the_hashes_that_it_is_long_enough_for() {
    for (len, accepted) in [(32, 1), (47, 1), (48, 2), (63, 2), (64, 3)] {
        let secret = &SECRET[..len];
        let keys = Keys::from_secret(secret).expect("strong");
        let verdicts: Vec<bool> = [HS256, HS384, HS512]
            .into_iter()
            .map(|a| verify(&sign(&json!({}), &EncodingKey::from_secret(secret), a), &keys, &rules(), NOW).is_ok())
            .collect();
        assert_eq!(verdicts, [true, accepted > 1, accepted > 2], "{len} bytes");
    }
}

#[test]
fn weak_secrets_are_refused() {
    let refused = |secret: &[u8]| Keys::from_secret(secret).expect_err("refused");
    assert_eq!(refused(b""), KeyError::Short(0));
    assert_eq!(refused(b"secret"), KeyError::Short(6));
    assert_eq!(refused(&SECRET[..31]), KeyError::Short(31));
    assert_eq!(refused(&[b'x'; 64]), KeyError::Trivial);
    assert_eq!(refused(b"abababababababababababababababababababab"), KeyError::Trivial);
    assert_eq!(refused(b"password1234password1234password1234"), KeyError::Trivial);
    assert_eq!(refused(b"abcdefghijklmnopqrstuvwxyz0123456789"), KeyError::Trivial);
    assert_eq!(refused(b"reallyreallyreallyreallyverysafe"), KeyError::Published);
    assert_eq!(refused(b"super-secret-jwt-token-with-at-least-32-characters-long"), KeyError::Published);
    for key in [
        jwk("rsa").to_string(),
        json!({"keys": [jwk("rsa")]}).to_string(),
        "-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A\n-----END PUBLIC KEY-----".to_owned(),
    ] {
        assert_eq!(refused(key.as_bytes()), KeyError::NotASecret);
    }
    let text = format!("{:?} {}", refused(b"hunter2"), refused(b"hunter2"));
    assert!(!text.contains("hunter2"), "no error holds the secret: {text}");
    // Hexadecimal and base64 of random bytes are strong.
    for strong in ["3f9a0c77d15be8426a1d90fe58b34c72", "bG9vayBhdCB0aGlzLCBpdCBpcyBub3QgcmFuZG9t"] {
        assert!(Keys::from_secret(strong.as_bytes()).is_ok(), "{strong}");
    }
}

#[test]
fn keys_that_may_not_verify_are_left_out_and_said() {
    let changed = |name: &str, member: &str, value: Value| {
        let mut jwk = jwk(name);
        jwk[member] = value;
        jwk
    };
    let unfit = [
        (jwk("short"), "2048"),
        (changed("rsa", "use", json!("enc")), "use"),
        (changed("rsa", "key_ops", json!(["sign"])), "key_ops"),
        (changed("rsa", "key_ops", json!("verify")), "key_ops"),
        (changed("rsa", "alg", json!("HS256")), "does not fit"),
        (changed("rsa", "alg", json!("RSA-OAEP")), "not supported"),
        (changed("rsa", "alg", json!("none")), "not supported"),
        (changed("p256", "alg", json!("ES384")), "does not fit"),
        (changed("p256", "crv", json!("P-521")), "curve"),
        (changed("p256", "crv", json!("P-384")), "length"),
        (changed("p256", "x", json!(b64([7; 32]))), "valid"),
        (changed("ed", "x", json!(b64([7; 31]))), "length"),
        (changed("ed", "crv", json!("Ed448")), "curve"),
        (changed("ed", "crv", json!("X25519")), "curve"),
        (changed("rsa", "kty", json!("future")), "kty"),
        (changed("rsa", "n", json!("***")), "base64url"),
        (changed("rsa", "n", json!("")), "2048"),
        (changed("rsa", "n", json!(b64([255; 255]) + "A")), "base64url"),
        (changed("rsa", "n", json!(b64([254; 256]))), "valid"),
        (changed("rsa", "e", json!(b64([0]))), "valid"),
        (changed("rsa", "e", json!(b64([1]))), "valid"),
        (changed("rsa", "e", json!(b64([1, 0, 0]))), "valid"),
        (changed("rsa", "e", json!(b64([1; 9]))), "valid"),
        (changed("rsa", "e", json!("")), "valid"),
        (changed("rsa", "kid", json!(7)), "kid"),
        (json!({"kty": "oct", "k": b64("short")}), "secret"),
        (json!({"kty": "oct", "k": b64([1; 64])}), "secret"),
        (json!({"kty": "oct", "k": b64(&SECRET[..32]), "alg": "HS512"}), "length"),
        (json!({"kty": "oct"}), "missing"),
        (json!({}), "kty"),
    ];
    for (key, why) in &unfit {
        match Keys::from_jwks(json!({"keys": [key]}).to_string().as_bytes()) {
            Err(KeyError::NoneUsable(text)) => assert!(text.contains(why), "{key}: {text}"),
            other => panic!("{key}: {other:?}"),
        }
    }
    let mixed: Vec<Value> = unfit.iter().map(|(key, _)| key.clone()).chain([jwk("ed")]).collect();
    let (keys, lines) = Keys::from_jwks(json!({ "keys": mixed }).to_string().as_bytes()).expect("one is fit");
    assert_eq!(lines.len(), unfit.len());
    assert!(verify(&sign(&json!({}), &private("ed"), EdDSA), &keys, &rules(), NOW).is_ok());
}

#[test]
fn a_document_that_is_none_is_an_error() {
    for text in ["", "[]", "null", "{}", r#"{"keys": {}}"#, r#"{"keys": [1]}"#, r#"{"keys": [], "keys": []}"#, "\u{1}"]
    {
        assert_eq!(Keys::from_jwks(text.as_bytes()).expect_err(text), KeyError::Document, "{text}");
    }
    assert!(matches!(Keys::from_jwks(br#"{"keys": []}"#), Err(KeyError::NoneUsable(_))));
    let many = vec![jwk("ed"); MAX_KEYS + 1];
    assert_eq!(Keys::from_jwks(json!({ "keys": many }).to_string().as_bytes()).expect_err("many"), KeyError::TooMany);
}
