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
use uuid::Uuid;

/// A PNG of one pixel.
const DOT: &[u8] = include_bytes!("dot.png");

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
        let foot = page.text(".answer .foot").await;
        assert!(
            foot.starts_with("First text after ") && foot.contains(" · 3 tokens in, 34 out · about $0.00001"),
            "{foot}"
        );
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
        assert_eq!(page.text(".answer .foot").await, "Stopped");
        assert_eq!(page.problems().await, json!([]), "nothing went wrong");
        page.until("document.getElementById('stop').hidden && !document.getElementById('send').hidden").await;
        // What was said so far is part of the chat, and one can go on.
        page.ask("Go on").await;
        assert!(page.answer(2).await.ends_with("Before that you said “Count to 1000”."));
    })
    .await;
}

#[tokio::test]
async fn what_goes_wrong_is_said_where_it_did() {
    on_the_demos_page(async |page| {
        page.sign_in().await;
        page.ask("Show me an error").await;
        page.answer(1).await;
        let words = "400 This is what a provider's error looks like: you asked for one";
        assert_eq!(page.problems().await, json!([["turn answer", words]]));
        assert_eq!(page.value("document.querySelectorAll('.mine').length").await, 1, "the question is still there");
        let id = page.text(".answer .request-id code").await;
        assert!(Uuid::try_parse(&id).is_ok(), "the request's id: {id}");
        assert_eq!(page.text(".answer .again").await, "Try again");
        page.click(".answer .again").await;
        page.until(&format!("![ '', {id:?} ].includes(document.querySelector('.answer .request-id code')?.textContent ?? '')")).await;
        page.answer(1).await;

        page.ask("Cut the answer off").await;
        assert!(page.answer(2).await.starts_with("This answer breaks off"), "what came is kept");
        let last = "document.querySelector('.answer:last-child .problem p')?.textContent";
        assert!(!page.value(last).await.as_str().expect("a sentence").is_empty());
        assert_ne!(page.text(".answer:last-child .request-id code").await, "");
        page.ask("Hello again, friend").await;
        assert!(page.answer(3).await.starts_with("Hello!"), "the failed question is not sent again");

        // A session that ended elsewhere.
        let signed_out = "fetch('/auth/v1/logout', { method: 'POST', headers: \
            { Authorization: `Bearer ${JSON.parse(sessionStorage.session).access_token}` } }).then((r) => window.out = r.status)";
        page.value(signed_out).await;
        page.until("window.out === 204").await;
        page.ask("Hello").await;
        page.until(&format!("{last} === 'The access token is not accepted. Sign in again for a new one.'")).await;
        page.value("sessionStorage.session = JSON.stringify({ ...JSON.parse(sessionStorage.session), expires_at: 1 })").await;
        page.driver.refresh().await.expect("loads again");
        let words = "Your session has ended: please sign in again";
        page.until(&format!("document.querySelector('#sign-in-error p')?.textContent === {words:?}")).await;
    })
    .await;
}

#[tokio::test]
async fn markdown_is_shown_and_code_copied() {
    on_the_demos_page(async |page| {
        page.sign_in().await;
        page.ask("Show me Markdown").await;
        let text = page.answer(1).await;
        for element in ["h2", "strong", "em", "p code", "ol > li > ul > li", "table td.right", ".code pre code", "blockquote"] {
            assert_eq!(page.value(&format!("Boolean(document.querySelector('.answer .said {element}'))")).await, true, "{element}");
        }
        assert!(text.contains("HTML is shown, not run: <b>bold</b>") && !text.contains("**"), "{text}");
        let link = page.value("((a) => [a.href, a.target, a.rel])(document.querySelector('.answer .said a'))").await;
        assert_eq!(link, json!(["https://commonmark.org/", "_blank", "noopener noreferrer nofollow"]));
        assert_eq!(page.text(".answer .thoughts p").await, "A bit of everything will show it best.");
        assert_eq!(page.text(".answer .sources a").await, "CommonMark");

        let pasted = async |button: &str| {
            page.click(button).await;
            page.until(&format!("document.querySelector({button:?}).textContent === 'Copied'")).await;
            page.value("document.getElementById('question').value = ''").await;
            page.click("#question").await;
            let keys = page.driver.action_chain().key_down(Key::Control).send_keys("v").key_up(Key::Control);
            keys.perform().await.expect("keys");
            page.value("document.getElementById('question').value").await
        };
        assert_eq!(
            pasted(".code .copy").await,
            "fn main() {\n    println!(\"This can be copied: {}\", 6 * 7);\n}\n"
        );
        assert!(pasted(".turn-actions .copy").await.as_str().expect("text").starts_with("## What Markdown looks like"));
        page.value("document.getElementById('question').value = ''").await;

        // Nothing of a model's runs, is fetched, or leads anywhere but to the web.
        page.ask("<svg onload='window.ran=1'> ![p](http://127.0.0.1:9/p.png) [l](javascript:window.ran=1) <script>window.ran=1</script>").await;
        let text = page.answer(2).await;
        assert!(text.contains("<svg onload=") && text.contains("[l](javascript:window.ran=1)"), "{text}");
        let bad = "document.querySelectorAll('.answer :is(img, svg, script, [onload], [style], a[href^=javascript])').length";
        assert_eq!(page.value(&format!("[{bad}, window.ran ?? null]")).await, json!([0, null]));
        page.is_quiet(&[&page.url]).await;
    })
    .await;
}

#[tokio::test]
async fn a_conversation_survives_a_reload() {
    on_the_demos_page(async |page| {
        page.sign_in().await;
        page.click("#provider option[value=mistral]").await;
        page.click("#model option[value=mistral-large-latest]").await;
        page.ask("The first thing").await;
        page.answer(1).await;
        page.ask("Count to 1000").await;
        page.until("document.querySelectorAll('.answer .said')[1]?.textContent.length > 10").await;
        page.value("document.getElementById('question').value = 'half a thought'").await;
        page.driver.refresh().await.expect("loads again");
        let text = page.answer(2).await;
        assert!(text.starts_with("1 2 3 "), "what came is kept: {text}");
        assert_eq!(page.text(".answer:last-child .foot").await, "Stopped by leaving the page");
        assert_eq!(page.text(".mine .said").await, "The first thing");
        page.until("document.getElementById('provider').value === 'mistral'").await;
        page.until("document.getElementById('model').value === 'mistral-large-latest'").await;
        assert_eq!(page.value("document.getElementById('question').value").await, "half a thought");
        page.value("document.getElementById('question').value = ''").await;
        page.ask("And the next").await;
        assert!(page.answer(3).await.ends_with("Before that you said “Count to 1000”."), "it goes on");
        page.click("#new-chat").await;
        page.driver.refresh().await.expect("loads again");
        page.until("document.getElementById('model').options.length > 1").await;
        assert_eq!(page.value("document.querySelectorAll('.turn').length").await, 0, "a new chat is forgotten too");
    })
    .await;
}

#[tokio::test]
async fn pictures_and_tools_go_along() {
    on_the_demos_page(async |page| {
        page.sign_in().await;
        let file = page.running[0].folder().join("dot.png");
        std::fs::write(&file, DOT).expect("a file");
        let input = page.driver.find(By::Id("file")).await.expect("an input");
        for (count, provider) in ["openai", "anthropic", "google"].into_iter().enumerate() {
            page.click(&format!("#provider option[value={provider}]")).await;
            input.send_keys(file.to_str().expect("UTF-8")).await.expect("a file");
            page.until("document.querySelector('#files img')").await;
            page.ask("Hello there").await;
            let text = page.answer(count + 1).await;
            assert!(text.starts_with("You showed me 1 picture. Hello!"), "{provider}: {text}");
            assert_eq!(page.value("document.querySelectorAll('#files li').length").await, 0);
        }
        assert_eq!(page.value("document.querySelectorAll('.mine img').length").await, 3);

        page.click("#provider option[value=openai]").await;
        page.click("#open-settings").await;
        page.click("#tools input").await;
        // The row of the ledger is written a moment after the answer.
        page.until("document.getElementById('usage').textContent.startsWith('Today: ')").await;
        page.click("#close-settings").await;
        assert!(page.text("#key-note").await.ends_with(" · may use Dice"));
        page.ask("Roll a die with 1000 sides").await;
        let text = page.answer(4).await;
        assert!(text.contains("The tool returned ") && text.contains("\"sides\":1000"), "{text}");
        assert_eq!(page.text(".answer:last-child .tools li").await, "rollDice was called");
        page.is_quiet(&[&page.url]).await;
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
        page.until("document.querySelector('#composer-error p')?.textContent === 'Unsupported file type'").await;
        assert_eq!(page.value("document.querySelectorAll('#files li').length").await, 0);
        assert!(Uuid::try_parse(&page.text("#composer-error code").await).is_ok(), "the request's id");
    })
    .await;
}

#[tokio::test]
async fn every_provider_answers_and_another_one_again() {
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
        // By the counts of OpenAI, Anthropic and Google.
        let counts = "[...document.querySelectorAll('.answer .foot')].slice(0, 3).map((foot) => / · \\d+ tokens in, 7 out · about \\$0/.test(foot.textContent))";
        assert_eq!(page.value(counts).await, json!([true, true, true]));
        // The last answer by another model, which has a successor.
        page.click("#provider option[value=openai]").await;
        page.click("#model option[value='other…']").await;
        page.press("gpt-4").await;
        page.click(".answer .again").await;
        page.until("document.querySelector('.answer:last-child .who').textContent === 'OpenAI · gpt-4'").await;
        assert_eq!(page.answer(9).await, "1 2 3 – that is all.");
        let foot = page.text(".answer:last-child .foot").await;
        assert!(foot.ends_with(" · gpt-5.6-sol in place of gpt-4"), "{foot}");
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
            for _ in 0..30 {
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
        assert_eq!(page.text(".answer:last-child .foot").await, "Stopped");
        assert_eq!(page.value("document.activeElement.id").await, "question");

        // The rest of the page, in the order in which it is seen.
        page.value("document.activeElement.blur()").await;
        for id in ["sign-out", "provider", "model", "new-chat", "open-settings", "question", "attach", "send"] {
            tab_to(id).await;
        }
    })
    .await;
}

/// The looks: at three widths and in both themes nothing is wider than the window, all is large enough for a thumb, and
/// axe-core, where `.ci/run` has put it, finds nothing. Pictures of all are in `target/tmp/playground`.
#[tokio::test]
async fn it_fits_phones_and_desks_in_both_themes_and_is_accessible() {
    let axe = axe();
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("playground");
    std::fs::create_dir_all(&folder).expect("a folder");
    on_the_demos_page(async |page| {
        let fits = async |what: &str| {
            // Not `innerWidth`, which grows with the page where a phone zooms out.
            let widths = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]";
            let widths = page.value(widths).await;
            assert_eq!(widths[0], widths[1], "{what}");
            let small = page
                .value(
                    "[...document.querySelectorAll('button, select, summary, input, textarea, label.check')].filter((e) => e.checkVisibility() && e.type !== 'checkbox') \
                     .map((e) => [e.id || e.className, e.getBoundingClientRect()]).filter(([, box]) => box.height < 43.5 || box.right > document.documentElement.clientWidth || box.left < 0).map(([id]) => id)",
                )
                .await;
            assert_eq!(small, json!([]), "{what}: a thumb hits each");
        };
        let clean = async |what: &str| {
            let Some(axe) = &axe else { return };
            if page.value("typeof axe").await == "undefined" {
                page.driver.execute(axe.as_str(), vec![]).await.expect("axe");
            }
            page.value("axe.run().then((result) => { window.found = result.violations })").await;
            page.until("window.found").await;
            let found = page.value("found.map(({ id, nodes }) => [id, nodes.map((node) => node.html)])").await;
            page.value("window.found = undefined").await;
            assert_eq!(found, json!([]), "{what}");
        };
        let everywhere = async |what: &str| {
            for scheme in ["light", "dark"] {
                let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
                page.cdp("Emulation.setEmulatedMedia", features).await;
                for (size, width, height) in [("desk", 1280, 800), ("tablet", 768, 1024), ("phone", 360, 640)] {
                    let what = format!("{what}, {size}, {scheme}");
                    page.size(width, height).await;
                    fits(&what).await;
                    page.driver.screenshot(&folder.join(format!("{what}.png"))).await.expect("a picture");
                    // The tablet's is the desk's, and a theme is the same at each width.
                    if size == "phone" || (size == "desk" && scheme == "light") {
                        clean(&what).await;
                    }
                }
            }
        };
        page.until("!document.getElementById('demo-sign-in').hidden").await;
        everywhere("signing in").await;
        page.sign_in().await;
        everywhere("empty").await;
        page.click("#open-settings").await;
        page.until("document.getElementById('usage').textContent.startsWith('Today: ')").await;
        everywhere("settings").await;
        page.click("#close-settings").await;
        page.ask("Show me an error").await;
        page.answer(1).await;
        page.ask(&format!("Markdown {}", "word".repeat(60))).await;
        page.answer(2).await;
        page.click(".thoughts:not([hidden]) summary").await;
        everywhere("chat").await;
        // Wherever one is in a long chat on a phone: choosing above, writing below, and the most between for reading.
        for place in ["0", "document.documentElement.scrollHeight / 2", "document.documentElement.scrollHeight"] {
            page.value(&format!("scrollTo(0, {place})")).await;
            let seen = "['provider', 'model', 'new-chat', 'question', 'send'].map((id) => document.getElementById(id)).filter((e) => { \
                const box = e.getBoundingClientRect(); \
                return document.elementFromPoint(box.left + box.width / 2, box.top + box.height / 2)?.closest('[id]') === e }).length";
            assert_eq!(page.value(seen).await, 5, "in reach at {place}");
        }
        let bars = "document.querySelector('.bar').offsetHeight + document.querySelector('.composer').offsetHeight";
        let height = page.value(bars).await.as_f64().expect("a number");
        assert!(height < 260.0, "of 640: {height}");
        // As at 200 % on a phone-sized window, and at 400 % on a desk.
        page.size(320, 256).await;
        fits("zoomed").await;

        page.size(1280, 800).await;
        let sides = "['.mine .said', '.answer:last-child .said'].map((s) => document.querySelector(s)).map((e) => \
            [Math.round(e.getBoundingClientRect().left) > 300, getComputedStyle(e).backgroundColor])";
        let sides = page.value(sides).await;
        assert_eq!((&sides[0][0], &sides[1][0]), (&json!(true), &json!(false)), "mine on the right: {sides}");
        assert_ne!(sides[0][1], sides[1][1], "mine on a ground of its own");
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
        page.size(1000, 900).await;
        page.sign_in().await;
        page.ask("Show me Markdown").await;
        page.answer(1).await;
        page.value("scrollTo(0, document.documentElement.scrollHeight)").await;
        page.driver.screenshot(std::path::Path::new("docs/playground.png")).await.expect("a picture");
    })
    .await;
}
