//! The program itself, as a person runs it: in a folder without `.env`, with
//! these variables and no others.

use std::{path::PathBuf, process::Stdio, time::Duration};

use tokio::process::Command;

/// A command's output and exit status.
#[derive(Debug)]
pub struct Said {
    pub status: i32,
    pub out: String,
    pub err: String,
}

/// The program, not yet started.
pub fn command(arguments: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chatbot-ui-api"));
    command
        .args(arguments)
        .env_clear()
        .envs(variables.iter().copied())
        .current_dir(folder())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// Runs the program to its end.
pub async fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Said {
    finish(command(arguments, variables)).await
}

/// The same, in a folder with these files.
pub async fn run_with_files(arguments: &[&str], variables: &[(&str, &str)], files: &[(&str, &[u8])]) -> Said {
    let folder = std::env::temp_dir().join(format!("chatbot-ui-api-files-{}", uuid::Uuid::new_v4()));
    std::fs::create_dir_all(&folder).expect("a folder");
    for (name, bytes) in files {
        std::fs::write(folder.join(name), bytes).expect("written");
    }
    let mut command = command(arguments, variables);
    command.current_dir(&folder);
    let said = finish(command).await;
    std::fs::remove_dir_all(&folder).expect("removed");
    said
}

async fn finish(mut command: Command) -> Said {
    let output = tokio::time::timeout(Duration::from_secs(60), command.output());
    let output = output.await.expect("ends in time").expect("starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    Said { status: output.status.code().expect("a status"), out: text(output.stdout), err: text(output.stderr) }
}

/// A folder that has nothing in it.
fn folder() -> PathBuf {
    let folder = std::env::temp_dir().join(format!("chatbot-ui-api-empty-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}
