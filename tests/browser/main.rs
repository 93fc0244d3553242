//! The playground as people see it, in a real Chromium, on the real binary.
//! Skipped, with a line that says so, where Chromium or its driver is absent.

#[path = "../support/programs.rs"]
mod programs;
mod project;
#[expect(dead_code, reason = "here they are one user's")]
#[path = "../support/rows.rs"]
mod rows;
#[expect(dead_code, reason = "here it only signs in")]
#[path = "../support/supabase.rs"]
mod supabase;
mod support;
#[expect(dead_code, reason = "here it only carries the stand-in for Supabase")]
#[path = "../support/upstream/mod.rs"]
mod upstream;

use std::time::{Duration, Instant};

use serde_json::json;
use support::{Page, on_the_demos_page};
use thirtyfour::prelude::*;
use tokio::time::sleep;

#[tokio::test]
async fn an_answer_arrives_in_pieces() {
    on_the_demos_page(async |page| {
        page.sign_in().await;
        page.ask("Count to 30").await;
        let mut lengths = Vec::new();
        while page.value("document.querySelector('.answer')?.ariaBusy !== 'false'").await == true {
            lengths.push(page.text(".answer .said").await.len());
            assert!(lengths.len() < 2000, "it does not end");
        }
        lengths.dedup();
        assert!(lengths.len() > 8, "pieces: {lengths:?}");
        let text = page.answer(1).await;
        assert!(text.starts_with("1 2 3 ") && text.ends_with("30 – that is all."), "{text}");
        assert!(page.text(".answer .note").await.starts_with("First text after "));
        assert_eq!(page.text("#status").await, format!("Answer: {text}"), "for those who cannot see it");

        page.ask("Said the second time").await;
        let text = page.answer(2).await;
        assert!(
            text.contains("“Said the second time”") && text.ends_with("Before that you said “Count to 30”."),
            "{text}"
        );
        page.is_quiet(&[&page.url]).await;
    })
    .await;
}

#[tokio::test]
async fn stopping_leaves_the_provider() {
    on_the_demos_page(async |page| {
        page.sign_in().await;
        page.ask("Count to 1000").await;
        page.until("document.querySelector('.answer .said')?.textContent.length > 10").await;
        let answers = async || -> serde_json::Value {
            let response = reqwest::get(format!("{}/demo/answers", page.url)).await.expect("an answer");
            serde_json::from_str(&response.text().await.expect("text")).expect("JSON")
        };
        assert_eq!(answers().await, json!({ "underWay": 1, "left": 0 }));
        page.click("#stop").await;
        let since = Instant::now();
        while answers().await != json!({ "underWay": 0, "left": 1 }) {
            assert!(since.elapsed() < Duration::from_secs(2), "the provider still talks");
            sleep(Duration::from_millis(5)).await;
        }
        let text = page.answer(1).await;
        assert!(text.starts_with("1 2 3 ") && !text.contains("1000"), "{text}");
        assert_eq!(page.text(".answer .note").await, "Stopped");
        assert_eq!(page.text("#toast").await, "", "nothing went wrong");
        page.until("document.getElementById('stop').hidden && !document.getElementById('send').hidden").await;
        // What was said so far is part of the chat, and one can go on.
        page.ask("Go on").await;
        assert!(page.answer(2).await.ends_with("Before that you said “Count to 1000”."));
    })
    .await;
}

#[tokio::test]
async fn what_goes_wrong_is_said() {
    on_the_demos_page(async |page| {
        page.sign_in().await;
        page.ask("Show me an error").await;
        page.until("document.querySelector('#toast[role=alert] p')").await;
        let toast = page.text("#toast p").await;
        assert_eq!(toast, "400 This is what a provider's error looks like: you asked for one");
        assert_eq!(page.value("document.getElementById('question').value").await, "Show me an error", "to send it again");
        assert_eq!(page.value("document.querySelectorAll('.turn').length").await, 0);

        page.click("#toast button").await;
        page.until("document.getElementById('toast').childElementCount === 0").await;
        assert_eq!(page.value("document.activeElement.id").await, "question");
        page.value("document.getElementById('question').value = ''").await;

        page.ask("Cut the answer off").await;
        page.until("document.querySelector('#toast p')").await;
        assert_eq!(page.text("#toast p").await, "The answer was cut off");
        assert!(page.answer(1).await.starts_with("This answer breaks off"), "what came is kept");
        assert_eq!(page.text(".answer .note").await, "The answer was cut off");

        // A session that ended elsewhere.
        let signed_out = "fetch('/auth/v1/logout', { method: 'POST', headers: \
            { Authorization: `Bearer ${JSON.parse(sessionStorage.session).access_token}` } }).then((r) => window.out = r.status)";
        page.value(signed_out).await;
        page.until("window.out === 204").await;
        page.ask("Hello").await;
        page.until("document.querySelector('#toast p')?.textContent === 'The access token is not accepted. Sign in again for a new one.'").await;
    })
    .await;
}

#[tokio::test]
async fn a_file_can_be_asked_about() {
    on_the_demos_page(async |page| {
        page.sign_in().await;
        let file = page.running[0].folder().join("bakery notes.txt");
        let lines: Vec<String> = (0..400).map(|line| format!("Line {line} tells of flour, water and salt.")).collect();
        let secret = "The oven is lit by Marguerite at four in the morning.";
        std::fs::write(&file, format!("{}\n{secret}\n{}", lines.join("\n"), lines.join("\n"))).expect("a file");
        let input = page.driver.find(By::Id("file")).await.expect("an input");
        input.send_keys(file.to_str().expect("UTF-8")).await.expect("a file");
        page.until("document.querySelector('#files button')").await;
        assert_eq!(page.text("#files .name").await, "bakery notes.txt");

        page.ask("Who is it that has the oven lit in the morning?").await;
        assert_eq!(page.answer(1).await, format!("Your file says: “{secret}”"));
        assert_eq!(page.text(".passages summary").await, "4 passages from your files");
        assert!(page.text(".passages blockquote").await.starts_with("bakery notes.txt: "));

        page.click("#files button").await;
        page.ask("Who is it that has the oven lit in the morning?").await;
        assert!(page.answer(2).await.starts_with("You said"), "the file is no part of the chat any more");
        page.is_quiet(&[&page.url]).await;

        let other = page.running[0].folder().join("notes.exe");
        std::fs::write(&other, "MZ").expect("a file");
        input.send_keys(other.to_str().expect("UTF-8")).await.expect("a file");
        page.until("document.querySelector('#toast p')?.textContent === 'Unsupported file type'").await;
        assert_eq!(page.value("document.querySelectorAll('#files li').length").await, 0);
    })
    .await;
}

#[tokio::test]
async fn every_provider_answers() {
    on_the_demos_page(async |page| {
        page.sign_in().await;
        let providers =
            page.value("[...document.getElementById('provider').options].map((option) => option.value)").await;
        let providers = providers.as_array().expect("a list");
        assert_eq!(providers.len(), 9);
        for (asked, provider) in providers.iter().enumerate() {
            let option = format!("#provider option[value={}]", provider.as_str().expect("text"));
            page.click(&option).await;
            page.click("#question").await;
            page.ask("Count to 3").await;
            assert_eq!(page.answer(asked + 1).await, "1 2 3 – that is all.", "{provider}");
        }
        assert_eq!(page.text(".answer:last-child .who").await, "Custom · Demo (llama3)");
        page.click("#new-chat").await;
        page.until("document.querySelectorAll('.turn').length === 0 && !document.getElementById('empty').hidden").await;
        page.is_quiet(&[&page.url]).await;
    })
    .await;
}

#[tokio::test]
async fn the_keyboard_is_enough() {
    on_the_demos_page(async |page| {
        let tab_to = async |id: &str| {
            for _ in 0..20 {
                if page.value("document.activeElement.id").await == id {
                    let outline = "getComputedStyle(document.activeElement).outlineStyle";
                    assert_eq!(page.value(outline).await, "solid", "the focus on {id} can be seen");
                    return;
                }
                page.press(Key::Tab + "").await;
            }
            panic!("{id} is not reached");
        };
        page.until("!document.getElementById('demo-sign-in').hidden").await;
        tab_to("demo-sign-in").await;
        page.press(Key::Enter + "").await;
        page.until("document.activeElement.id === 'question'").await;
        page.press("one").await;
        let line = page.driver.action_chain().key_down(Key::Shift).send_keys(Key::Enter + "").key_up(Key::Shift);
        line.perform().await.expect("keys");
        page.press("two").await;
        assert_eq!(page.value("document.getElementById('question').value").await, "one\ntwo");
        page.press(Key::Enter + "").await;
        assert!(page.answer(1).await.contains("“one\ntwo”"));

        page.press("Count to 1000").await;
        page.press(Key::Enter + "").await;
        page.until("document.querySelectorAll('.answer .said')[1]?.textContent.length > 10").await;
        page.press(Key::Escape + "").await;
        page.answer(2).await;
        assert_eq!(page.text(".answer:last-child .note").await, "Stopped");
        assert_eq!(page.value("document.activeElement.id").await, "question");

        // The rest of the page, in the order in which it is seen.
        page.value("document.activeElement.blur()").await;
        for id in ["sign-out", "provider", "model", "new-chat", "question", "attach", "send"] {
            tab_to(id).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_narrow_page_does_not_scroll_sideways() {
    on_the_demos_page(async |page| {
        let fits = async |what: &str| {
            let widths = page.value("[document.documentElement.scrollWidth, window.innerWidth]").await;
            assert_eq!(widths[0], widths[1], "{what}");
            let small = page
                .value(
                    "[...document.querySelectorAll('button, select, summary, input, textarea')].filter((e) => e.checkVisibility()) \
                     .map((e) => [e.id, e.getBoundingClientRect()]).filter(([, box]) => box.height < 43.5 || box.right > innerWidth).map(([id]) => id)",
                )
                .await;
            assert_eq!(small, json!([]), "{what}: a thumb hits each");
        };
        page.size(360, 740).await;
        page.until("!document.getElementById('demo-sign-in').hidden").await;
        fits("signing in").await;
        page.sign_in().await;
        fits("nothing said yet").await;
        page.click("summary").await;
        fits("all settings").await;
        page.ask(&format!("Long {}", "word".repeat(60))).await;
        page.answer(1).await;
        page.ask("an error").await;
        page.until("document.querySelector('#toast p')").await;
        fits("a phone").await;
        // As at 200 % on a phone-sized window, and at 400 % on a desk.
        page.size(320, 256).await;
        fits("zoomed").await;
        page.size(1100, 800).await;
        fits("wide").await;
    })
    .await;
}

/// axe-core, where `.ci/run` has put it; it finds what a machine can find.
#[tokio::test]
async fn it_is_accessible() {
    let Some(axe) = axe() else { return };
    on_the_demos_page(async |page| {
        page.driver.execute(axe.as_str(), vec![]).await.expect("axe");
        let clean = async |what: &str| {
            page.value("axe.run().then((result) => { window.found = result.violations })").await;
            page.until("window.found").await;
            let found = page.value("found.map(({ id, nodes }) => [id, nodes.map((node) => node.html)])").await;
            page.value("window.found = undefined").await;
            assert_eq!(found, json!([]), "{what}");
        };
        page.until("!document.getElementById('demo-sign-in').hidden").await;
        clean("signing in").await;
        page.sign_in().await;
        page.click("summary").await;
        for scheme in ["light", "dark"] {
            let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
            page.cdp("Emulation.setEmulatedMedia", features).await;
            page.click("#new-chat").await;
            clean(scheme).await;
            page.ask("Cut the answer off").await;
            page.answer(1).await;
            clean(scheme).await;
            page.click("#toast button").await;
        }
    })
    .await;
}

fn axe() -> Option<String> {
    let path = concat!(env!("CARGO_TARGET_TMPDIR"), "/axe/node_modules/axe-core/axe.min.js");
    let axe = std::fs::read_to_string(path);
    if axe.is_err() {
        let how = format!("axe-core is not there (npm install --prefix {}/axe axe-core)", env!("CARGO_TARGET_TMPDIR"));
        assert!(std::env::var("CHATBOT_UI_API_TEST_ALL").as_deref() != Ok("1"), "{how}");
        programs::say(&format!("skipped a test: {how}"));
    }
    axe.ok()
}

/// Makes the README's picture again:
/// `cargo test --test browser -- --ignored picture`.
#[tokio::test]
#[ignore = "it writes docs/playground.png"]
async fn picture() {
    on_the_demos_page(async |page: &Page| {
        page.size(1000, 640).await;
        page.sign_in().await;
        let file = page.running[0].folder().join("bakery.md");
        std::fs::write(&file, "# Bakery\n\nThe oven is lit by Marguerite at four in the morning.\n").expect("a file");
        let input = page.driver.find(By::Id("file")).await.expect("an input");
        input.send_keys(file.to_str().expect("UTF-8")).await.expect("a file");
        page.until("document.querySelector('#files button')").await;
        page.ask("Who lights the oven?").await;
        page.answer(1).await;
        page.click("#files button").await;
        page.ask("Say this: rivers carry what mountains forget").await;
        page.until("document.querySelectorAll('.answer .said')[1]?.textContent.length > 130").await;
        page.value("scrollTo(0, document.querySelector('.turn').offsetTop - 24)").await;
        page.driver.screenshot(std::path::Path::new("docs/playground.png")).await.expect("a picture");
    })
    .await;
}
