//! Tests without a model: the embedding function waits for a signal and records its input.

use std::{
    sync::{Arc, Mutex, atomic::AtomicUsize, atomic::Ordering},
    time::Duration,
};

use futures::{FutureExt, future::join_all};
use tokio::time::timeout;

use super::*;

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

/// A queue that embeds a text for each signal, and the list of finished texts.
fn gated(places: usize) -> (Queue, Sender<()>, Arc<Mutex<Vec<String>>>) {
    let (go, gate) = mpsc::channel();
    let gate = Mutex::new(gate);
    let done = Arc::new(Mutex::new(Vec::new()));
    let list = done.clone();
    let mut embed = Some(move |text: &str| {
        gate.lock().unwrap().recv().unwrap();
        list.lock().unwrap().push(text.to_owned());
        Ok(vec![text.len() as f32])
    });
    (Queue::start(places, move || Ok(embed.take().unwrap())).unwrap(), go, done)
}

async fn until(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(20), wait).await.unwrap();
}

#[tokio::test]
async fn a_full_queue_turns_away_at_once() {
    let (queue, go, _) = gated(3);
    let mut calls = Box::pin(join_all((0..3).map(|_| queue.embed(texts(&["a", "bc"])))));
    assert!((&mut calls).now_or_never().is_none());
    assert_eq!(queue.embed(texts(&["d"])).now_or_never(), Some(Err(Error::Busy)));
    (0..7).for_each(|_| go.send(()).unwrap());
    assert_eq!(calls.await, vec![Ok(vec![vec![1.0], vec![2.0]]); 3]);
    assert_eq!(queue.embed(texts(&["d"])).await, Ok(vec![vec![1.0]]));
}

#[tokio::test]
async fn calls_take_turns_a_text_at_a_time() {
    let (queue, go, done) = gated(3);
    let mut long = Box::pin(queue.embed(texts(&["1", "2", "3", "4"])));
    assert!((&mut long).now_or_never().is_none());
    let mut question = Box::pin(queue.embed(texts(&["?"])));
    assert!((&mut question).now_or_never().is_none());
    // The first text may have been started before the second call came.
    (0..5).for_each(|_| go.send(()).unwrap());
    assert_eq!(long.await.unwrap().len(), 4);
    assert_eq!(question.await.unwrap().len(), 1);
    let place = done.lock().unwrap().iter().position(|text| text == "?");
    assert!(place.unwrap() <= 2, "{done:?}");
}

#[tokio::test]
async fn who_leaves_is_not_worked_for() {
    let (queue, go, done) = gated(3);
    let mut first = Box::pin(queue.embed(texts(&["a"])));
    let mut long = Box::pin(queue.embed(texts(&["b", "c", "d"])));
    let mut waiting = Box::pin(queue.embed(texts(&["e"])));
    assert!((&mut first).now_or_never().is_none());
    assert!((&mut long).now_or_never().is_none());
    assert!((&mut waiting).now_or_never().is_none());
    (0..2).for_each(|_| go.send(()).unwrap());
    first.await.unwrap();
    until(|| done.lock().unwrap().len() == 2).await;
    // "e" is running or next; "c" waits behind it.
    drop(long);
    (0..2).for_each(|_| go.send(()).unwrap());
    waiting.await.unwrap();
    until(|| queue.places.available_permits() == 3).await;
    assert_eq!(*done.lock().unwrap(), ["a", "b", "e"]);
}

#[tokio::test]
async fn one_load_is_enough_for_all_who_ask_together() {
    let (loads, (go, gate)) = (Arc::new(AtomicUsize::new(0)), mpsc::channel());
    let counter = loads.clone();
    // Fails twice, then works.
    let queue = Queue::start(32, move || {
        gate.recv().unwrap();
        match counter.fetch_add(1, Ordering::SeqCst) {
            0 => Err(Error::Model("not yet".to_owned())),
            1 => panic!("a bug in a crate"),
            _ => Ok(|_: &str| Ok(vec![1.0])),
        }
    });
    let queue = queue.unwrap();
    for expected in [
        Err(Error::Model("not yet".to_owned())),
        Err(Error::Failed("the thread panicked".to_owned())),
        Ok(vec![vec![1.0]]),
    ] {
        let mut calls = Box::pin(join_all((0..20).map(|_| queue.embed(texts(&["x"])))));
        assert!((&mut calls).now_or_never().is_none());
        go.send(()).unwrap();
        assert_eq!(timeout(Duration::from_secs(20), calls).await.unwrap(), vec![expected; 20]);
    }
    assert_eq!(loads.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_panic_costs_one_call() {
    let load = || Ok(|text: &str| if text == "boo" { panic!("a bug in a crate") } else { Ok(vec![]) });
    let queue = Queue::start(1, load).unwrap();
    let failed = queue.embed(texts(&["fine", "boo", "fine"])).await;
    assert_eq!(failed, Err(Error::Failed("the thread panicked".to_owned())));
    assert_eq!(queue.embed(texts(&["fine"])).await, Ok(vec![vec![]]));
    assert_eq!(queue.embed(texts(&[])).await, Ok(vec![]));
}

#[tokio::test]
async fn the_thread_ends_with_the_queue() {
    let held = Arc::new(());
    let model = held.clone();
    let queue = Queue::start(1, move || {
        let model = model.clone();
        Ok(move |_: &str| Ok(vec![Arc::strong_count(&model) as f32]))
    });
    let queue = queue.unwrap();
    queue.embed(texts(&["x"])).await.unwrap();
    drop(queue);
    until(|| Arc::strong_count(&held) == 1).await;
}
