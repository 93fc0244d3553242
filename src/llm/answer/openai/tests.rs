use super::{super::output::Wanted, *};

fn read(events: &[&str]) -> Result<String, Failure> {
    let mut reader = Reader::default();
    let mut out = Output::default();
    for data in events {
        reader.read(Event { name: b"", data: data.as_bytes() }, &mut out)?;
    }
    Ok(out.text)
}

fn deltas(deltas: &[&str]) -> Result<String, Failure> {
    let events: Vec<String> = deltas.iter().map(|delta| format!(r#"{{"choices":[{{"delta":{delta}}}]}}"#)).collect();
    read(&events.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn text_comes_without_its_leading_space() {
    let said = deltas(&[
        r#"{"role":"assistant","content":""}"#,
        r#"{"content":null}"#,
        r#"{"content":"\n\n"}"#,
        r#"{"content":"\ufeff x  "}"#,
        r#"{"content":"  y"}"#,
    ]);
    assert_eq!(said.expect("text"), "x    y");
}

#[test]
fn events_without_text_are_passed_over() {
    for data in [
        "{}",
        "[]",
        r#"{"choices":null}"#,
        r#"{"choices":[]}"#,
        r#"{"choices":[null]}"#,
        r#"{"choices":{}}"#,
        r#"{"choices":[],"usage":{"total_tokens":3}}"#,
        r#"{"choices":[{"delta":null}]}"#,
        r#"{"error":null}"#,
        "",
        " ",
        ": keep-alive",
    ] {
        assert_eq!(read(&[data]).expect(data), "", "{data}");
    }
    assert_eq!(read(&[r#"{"choices":[{"text":" old"}]}"#]).expect("text"), "old");
}

#[test]
fn events_in_the_same_envelope_read_as_if_they_were_parsed() {
    let event = |text: &str| format!(r#"{{"id":"x","choices":[{{"delta":{{"content":"{text}"}},"index":0}}],"n":1}}"#);
    let mut reader = Reader::default();
    let mut out = Output::default();
    let mut read = |data: &str| {
        out.text.clear();
        let read = reader.read(Event { name: b"", data: data.as_bytes() }, &mut out);
        read.map(|()| out.text.clone()).map_err(|failure| failure.to_string())
    };
    for (text, shown) in [(" a", "a"), (" b", " b"), ("", ""), (r#"\"c\""#, "\"c\""), ("ü塩", "ü塩"), (r"\u0041", "A")]
    {
        assert_eq!(read(&event(text)), Ok(shown.to_owned()));
    }
    // What would be more than a text there is parsed.
    assert_eq!(read(&event(r#"x"},"finish_reason":"stop"},{"delta":{"content":"y"#)), Ok("x".to_owned()));
    assert!(read(&event("a\nb\u{1}")).is_err() && read(&event(r#"a"b"#)).is_err() && read(&event(r"\x")).is_err());
    assert_eq!(read(r#"{"error":{"message":"quota"}}"#), Err("quota".to_owned()));
    assert_eq!(read(&event("on")), Ok("on".to_owned()));
}

#[test]
fn an_envelope_that_never_fits_is_no_longer_kept() {
    let mut reader = Reader::default();
    let mut out = Output::default();
    for number in 0..20 {
        let data = format!(r#"{{"choices":[{{"delta":{{"content":"a"}}}}],"obfuscation":"{number}"}}"#);
        reader.read(Event { name: b"", data: data.as_bytes() }, &mut out).expect("understood");
    }
    assert_eq!(out.text, "a".repeat(20));
    assert!(reader.envelope.after.ends_with(br#""obfuscation":"7"}"#));
}

#[test]
fn surrogates_and_escapes() {
    assert_eq!(deltas(&[r#"{"content":"\ud83e\udd80\u0041\n\\"}"#]).expect("text"), "🦀A\n\\");
    assert_eq!(deltas(&[r#"{"content":"a\ud83eb"}"#, r#"{"content":"\udd80"}"#]).expect("text"), "a\u{fffd}b\u{fffd}");
    assert_eq!(deltas(&[r#"{"content":"\ud83d\ud83e\udd80é"}"#]).expect("text"), "\u{fffd}🦀é");
}

#[test]
fn contents_of_other_kinds() {
    assert_eq!(
        deltas(&[r#"{"content":[{"type":"text","text":"a"},{"type":"thinking","thinking":[]},{"text":"b"}]}"#])
            .expect("text"),
        "ab"
    );
    assert!(deltas(&[r#"{"content":5}"#]).is_err());
    assert!(deltas(&[r#"{"content":{"a":1}}"#]).is_err());
}

#[test]
fn errors_and_nonsense_fail() {
    assert_eq!(read(&[r#"{"error":{"message":"quota"}}"#]).expect_err("fails").to_string(), "quota");
    for data in
        ["null", "5", r#""text""#, "{bad", "<html>", r#"{"choices":[{"delta":{"content":"x}"#, r#"{"choices":7}"#]
    {
        assert!(read(&[data]).is_err(), "{data}");
    }
}

#[test]
fn several_events_without_blank_lines() {
    let delta = |text: &str| format!(r#"{{"choices":[{{"delta":{{"content":"{text}"}}}}]}}"#);
    assert_eq!(read(&[&format!("{}\n{}\n[DONE]", delta("a"), delta("b"))]).expect("text"), "ab");
    assert_eq!(read(&["{\"choices\":\n[{\"delta\":{\"content\":\"a\"}}]}"]).expect("text"), "a");
    assert!(read(&[&format!("{}\n{{oops", delta("a"))]).is_err());
}

#[test]
fn named_events() {
    let named = |name: &[u8]| {
        let mut out = Output::default();
        let data = br#"{"choices":[{"delta":{"content":"x"}}]}"#;
        Reader::default().read(Event { name, data }, &mut out).map(|()| out.text)
    };
    assert_eq!(named(b"message").expect("text"), "x");
    assert_eq!(named(b"ping").expect("nothing"), "");
    assert!(named(b"error").is_err());
}

#[test]
fn calls_are_written_as_json() {
    let tool = |text: &str| format!(r#"{{"choices":[{{"delta":{{"tool_calls":[{text}]}}}}]}}"#);
    let events = [
        tool(r#"{"index":0,"id":"call_1","function":{"name":"f","arguments":""}}"#),
        tool(r#"{"index":0,"function":{"arguments":"{\"a\":1}"}}"#),
        tool(r#"{"index":1,"id":"call_2","function":{"name":"g","arguments":""}}"#),
        tool(r#"{"index":1,"function":{"arguments":"{\"b\":\"\t\f\r/\"}"}}"#),
        r#"{"choices":[{"delta":{},"finish_reason":"tool_calls"}]}"#.to_owned(),
    ];
    let said = read(&events.each_ref().map(String::as_str)).expect("text");
    assert_eq!(
        said,
        r#"{"tool_calls":[ {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}}, {"id": "call_2", "type": "function", "function": {"name": "g", "arguments": "{\"b\":\"\t\f\r\/\"}"}}]}"#
    );
}

#[test]
fn a_refusal_is_the_answer() {
    let said = deltas(&[r#"{"content":null,"refusal":"I can"}"#, r#"{"refusal":"not."}"#]);
    assert_eq!(said.expect("text"), "I cannot.");
}

fn output(wanted: Wanted, habits: Habits, events: &[&str]) -> Result<Output, Failure> {
    let (mut reader, mut out) = (Reader::new(habits), Output::new(wanted));
    events.iter().try_for_each(|data| reader.read(Event { name: b"", data: data.as_bytes() }, &mut out))?;
    reader.finish(true, &mut out);
    Ok(out)
}

#[test]
fn thoughts_are_kept_apart() {
    let events = [
        r#"{"choices":[{"delta":{"reasoning_content":"a","content":null}}]}"#,
        r#"{"choices":[{"delta":{"reasoning":"b","reasoning_content":"b","content":""}}]}"#,
        r#"{"choices":[{"delta":{"reasoning":"c"}}]}"#,
        r#"{"choices":[{"delta":{"content":[{"type":"thinking","thinking":[{"type":"text","text":"d"}]},{"type":"text","text":"said"}]}}]}"#,
    ];
    let wanted = Wanted { reasoning: true, calls: false };
    let out = output(wanted, Habits::default(), &events).expect("read");
    assert_eq!((out.text.as_str(), out.reasoning.as_str(), out.thought), ("said", "abcd", true));
    let out = output(Wanted::default(), Habits::default(), &events).expect("read");
    assert_eq!((out.text.as_str(), out.reasoning.as_str(), out.thought), ("said", "", true));
}

#[test]
fn think_tags_are_told_apart_by_habit() {
    let delta = |text: &str| format!(r#"{{"choices":[{{"delta":{{"content":"{text}"}}}}]}}"#);
    let events = [delta("<thi"), delta("nk>hm</think>"), delta(r"\n\nsaid"), delta(" so")];
    let events = events.each_ref().map(String::as_str);
    let habits = Habits { think_tags: true, any_end: false };
    let wanted = Wanted { reasoning: true, calls: false };
    let out = output(wanted, habits, &events).expect("read");
    assert_eq!((out.text.as_str(), out.reasoning.as_str()), ("said so", "hm"));
    let out = output(wanted, Habits::default(), &events).expect("read");
    assert_eq!(out.text, "<think>hm</think>\n\nsaid so");
}

#[test]
fn ends_are_told() {
    let end = |habits, events: &[&str]| {
        output(Wanted::default(), habits, events).map(|out| (out.ended, out.done, out.finish))
    };
    let text = r#"{"choices":[{"delta":{"content":"a"},"finish_reason":null}]}"#;
    let finish = |reason: &str| format!(r#"{{"choices":[{{"delta":{{}},"finish_reason":"{reason}"}}]}}"#);
    let plain = Habits::default();
    assert_eq!(end(plain, &[text]).expect("read"), (false, false, None));
    assert_eq!(end(Habits { any_end: true, ..plain }, &[text]).expect("read"), (true, false, None));
    assert_eq!(end(plain, &[text, &finish("stop")]).expect("read"), (true, false, Some(Finish::Stop)));
    assert_eq!(end(plain, &[text, "[done]"]).expect("read"), (true, true, None));
    let (_, _, blocked) = end(plain, &[&finish("content_filter"), &finish("stop")]).expect("read");
    assert!(matches!(blocked, Some(Finish::Blocked(_))));
}

#[test]
fn errors_of_all_forms_are_errors() {
    for (data, words) in [
        (r#"{"choices":[{"delta":{"content":""},"error":{"message":"busy","code":502}}]}"#, "busy"),
        (r#"{"choices":[],"x_groq":{"id":"r","error":"busy"}}"#, "busy"),
        (r#"{"object":"error","message":"busy"}"#, "busy"),
        (r#"[{"error":{"message":"busy"}}]"#, "busy"),
        (r#"{"error":null,"error":{"message":"busy"}}"#, "busy"),
    ] {
        assert_eq!(read(&[data]).expect_err(data).to_string(), words);
    }
}

#[test]
fn of_a_key_that_is_there_twice_the_last_counts() {
    for data in [
        r#"{"choices":[],"choices":[{"delta":{"content":"a"}}]}"#,
        r#"{"choices":[{"delta":{"content":"b","content":"a"}}]}"#,
        r#"{"choices":[{"delta":{"content":"b"},"delta":{"content":"a"},"finish_reason":null,"finish_reason":"stop"}]}"#,
        r#"{"choices":[{"delta":{"content":"a"}}],"usage":null,"usage":{}}"#,
    ] {
        assert_eq!(read(&[data]).expect(data), "a");
    }
}

#[test]
fn pages_are_cited() {
    let events = [
        r#"{"citations":["https://a.example/","https://b.example/"],"search_results":[{"title":"B","url":"https://b.example/"}],"choices":[{"delta":{"content":"a"}}]}"#,
        r#"{"choices":[{"delta":{"annotations":[{"type":"url_citation","url_citation":{"url":"https://c.example/","title":"C"}},{"type":"x"}]}}]}"#,
    ];
    let out = output(Wanted::default(), Habits::default(), &events).expect("read");
    assert_eq!(
        serde_json::to_value(&out.sources).expect("JSON"),
        serde_json::json!([
            { "url": "https://c.example/", "title": "C" },
            { "url": "https://a.example/", "title": "a.example" },
            { "url": "https://b.example/", "title": "B" },
        ])
    );
}

#[test]
fn calls_are_collected_where_functions_were_offered() {
    let tool = |text: &str| format!(r#"{{"choices":[{{"delta":{{"tool_calls":[{text}]}}}}]}}"#);
    let events = [
        tool(
            r#"{"index":0,"id":"c1","function":{"name":"f","arguments":""}},{"index":1,"id":"c2","function":{"name":"g"}}"#,
        ),
        tool(r#"{"index":0,"function":{"arguments":"{\"a\":"}}"#),
        tool(r#"{"index":1,"function":{"arguments":"{}"}},{"index":0,"function":{"arguments":"1}"}}"#),
        r#"{"choices":[{"delta":{},"finish_reason":"tool_calls"}]}"#.to_owned(),
    ];
    let wanted = Wanted { reasoning: false, calls: true };
    let out = output(wanted, Habits::default(), &events.each_ref().map(String::as_str)).expect("read");
    let calls: Vec<_> = out.calls.list.iter().map(|call| [&*call.id, &*call.name, &*call.arguments]).collect();
    assert_eq!(calls, [["c1", "f", r#"{"a":1}"#], ["c2", "g", "{}"]]);
    assert_eq!((out.text.as_str(), out.finish), ("", Some(Finish::Calls)));
}

#[test]
fn groqs_count_is_taken() {
    let out =
        output(Wanted::default(), Habits::default(), &[r#"{"choices":[],"x_groq":{"usage":{"total_tokens":3}}}"#]);
    assert_eq!(out.expect("read").usage, r#"{"total_tokens":3}"#);
}
