//! Throughput of splitting files into passages, storing passages, and searching: `cargo bench --bench retrieval`. Takes
//! some minutes, most of them for the index of 100,000 vectors; `ITEMS=5000` takes less.

use std::time::{Duration, Instant};

use chatbot_ui_api::{
    cli::migrate,
    config::{Config, Variables},
    db::{
        Db,
        files::{self, Column, NewItem, NewVector, Replaced},
    },
    demo::postgres::{Options, Programs, Server},
    retrieval::{self, Chunk, extract::FileKind},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

const FILES: usize = 200;
const DIMENSIONS: usize = 1536;
/// Passages of one file are about one topic: their vectors are close to a centre.
const SPREAD: f32 = 0.7;

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    passages();
    runtime.block_on(rows());
}

#[expect(clippy::print_stdout, reason = "a benchmark's result")]
fn say(words: &str) {
    println!("{words}");
}

fn passages() {
    let words = ["the", "river", "carries", "salt", "from", "mountains", "that", "nobody", "named", "yet"];
    let mut random = StdRng::seed_from_u64(1);
    let mut text = String::new();
    while text.len() < 20_000_000 {
        text.push_str(words[random.random_range(0..words.len())]);
        text.push(if random.random_bool(0.08) { '\n' } else { ' ' });
    }
    retrieval::chunks(FileKind::Txt, "warm").expect("a passage");
    for (name, kind) in [("plain text", FileKind::Txt), ("markdown", FileKind::Md)] {
        let started = Instant::now();
        let chunks = retrieval::chunks(kind, &text).expect("passages");
        let rate = text.len() as f64 / started.elapsed().as_secs_f64() / 1e6;
        say(&format!("text to counted passages, {name}: {rate:.0} MB/s ({} passages)", chunks.len()));
    }
}

fn unit(mut numbers: Vec<f32>) -> Vec<f32> {
    let length = numbers.iter().map(|number| number * number).sum::<f32>().sqrt();
    numbers.iter_mut().for_each(|number| *number /= length);
    numbers
}

fn direction(random: &mut StdRng) -> Vec<f32> {
    unit((0..DIMENSIONS).map(|_| random.random_range(-1.0..1.0)).collect())
}

fn near(centre: &[f32], random: &mut StdRng) -> Vec<f32> {
    let aside = direction(random);
    unit(centre.iter().zip(&aside).map(|(centre, aside)| centre + SPREAD * aside).collect())
}

async fn rows() {
    let items: usize = std::env::var("ITEMS").ok().and_then(|items| items.parse().ok()).unwrap_or(100_000);
    let programs = Programs::find(&say).await.expect("Postgres");
    if !programs.pgvector {
        say("this Postgres has no pgvector: nothing more is measured");
        return;
    }
    let folder = std::env::temp_dir().join(format!("chatbot-ui-api-bench-{}", std::process::id()));
    let options = Options { durable: true, max_connections: 20, remove: true };
    let server = Server::start(&programs, &folder, options).await.expect("starts");
    let url = server.url("postgres");
    let mut connection = PgConnection::connect(&url).await.expect("connects");
    migrate::apply(&mut connection).await.expect("migrates");
    let config = Config::new(&Variables::from([("DATABASE_URL".to_owned(), url)])).expect("settings");
    let db = Db::new(&config.database);

    let user = Uuid::new_v4();
    sqlx::query("insert into auth.users (id) values ($1)").bind(user).execute(&mut connection).await.expect("a user");
    let mut random = StdRng::seed_from_u64(2);
    let centres: Vec<Vec<f32>> = (0..FILES).map(|_| direction(&mut random)).collect();
    let mut ids = Vec::new();
    for _ in 0..FILES {
        let id: Uuid = sqlx::query_scalar(
            "insert into public.files (user_id, description, file_path, name, size, tokens, type) values ($1, '', '', '', 0, 0, '') returning id",
        )
        .bind(user)
        .fetch_one(&mut connection)
        .await
        .expect("a file");
        ids.push(id);
    }

    let each = items / FILES;
    let fill = async |from: usize, to: usize, random: &mut StdRng| {
        let mut took = Duration::ZERO;
        for file in from..to {
            let chunks: Vec<Chunk> = (0..each)
                .map(|number| Chunk { content: format!("passage {number} of {file} ").repeat(40), tokens: 200 })
                .collect();
            let vectors: Vec<Vec<f32>> = (0..each).map(|_| near(&centres[file], random)).collect();
            let started = Instant::now();
            let items: Vec<NewItem<'_>> = chunks
                .iter()
                .zip(&vectors)
                .map(|(Chunk { content, tokens }, vector)| NewItem {
                    content,
                    tokens: *tokens,
                    vector: NewVector::Numbers(vector),
                })
                .collect();
            let stored = files::replace_items(&db, user, ids[file], &items, Column::OpenAi).await;
            assert_eq!(stored.expect("stored"), Replaced::Whole);
            took += started.elapsed();
        }
        ((to - from) * each) as f64 / took.as_secs_f64()
    };
    let some = FILES / 20;
    say(&format!("rows into pgvector, with its index: {:.0} rows/s", fill(0, some, &mut random).await));
    let drop_index = "drop index public.file_items_openai; drop index public.file_items_local";
    sqlx::raw_sql(drop_index).execute(&mut connection).await.expect("drops");
    say(&format!("rows into pgvector, without: {:.0} rows/s", fill(some, FILES, &mut random).await));
    let started = Instant::now();
    let index = "set maintenance_work_mem = '2GB'; set max_parallel_maintenance_workers = 2; \
                 create index file_items_openai on public.file_items using hnsw (openai_embedding vector_cosine_ops); \
                 analyze public.file_items";
    sqlx::raw_sql(index).execute(&mut connection).await.expect("indexes");
    say(&format!("the index of {items} rows: {:.0} s", started.elapsed().as_secs_f64()));

    for files in [1, 10, FILES] {
        for count in [4, 20] {
            let (mut times, mut hits, mut wanted) = (Vec::new(), 0, 0);
            for question in 0..50 {
                let asked = near(&centres[question % files], &mut random);
                let among = &ids[..files];
                let started = Instant::now();
                let found = files::nearest(&db, user, among, Column::OpenAi, &asked, Some(count)).await.expect("found");
                times.push(started.elapsed());
                let exact = files::nearest(&db, user, among, Column::OpenAi, &asked, None).await.expect("found");
                let exact: Vec<Uuid> = exact.iter().take(found.len().max(1)).map(|item| item.id).collect();
                hits += found.iter().filter(|item| exact.contains(&item.id)).count();
                wanted += usize::try_from(count).expect("small");
                // Searching all rows of all files is slow, and a few searches suffice to estimate the recall.
                if files == FILES && question == 9 {
                    break;
                }
            }
            times.sort();
            let milliseconds = |at: usize| times[at.min(times.len() - 1)].as_secs_f64() * 1000.0;
            say(&format!(
                "retrieve {count} from {files} of {FILES} files ({} items): p50 {:.1} ms, p99 {:.1} ms, recall {:.3}",
                files * each,
                milliseconds(times.len() / 2),
                milliseconds(times.len() * 99 / 100),
                hits as f64 / wanted as f64
            ));
        }
    }
    server.stop().await.expect("stops");
}
