//! The floor of memory: tokio, a socket, a task that waits for it to be readable.

use tokio::{io::AsyncReadExt, net::TcpListener, runtime::Builder};

use crate::{Res, process};

/// `floor-sockets`: says `listening ADDRESS`.
pub fn run() -> Res<()> {
    process::allow_files(16_000)?;
    Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(async {
        let std = crate::listener()?;
        std.set_nonblocking(true)?;
        let listener = TcpListener::from_std(std)?;
        println!("listening {}", listener.local_addr()?);
        loop {
            let (mut socket, _) = listener.accept().await?;
            tokio::spawn(async move {
                // No buffer while there is nothing to read.
                while socket.readable().await.is_ok() {
                    let mut byte = [0];
                    if !matches!(socket.read(&mut byte).await, Ok(1..)) {
                        return;
                    }
                }
            });
        }
    })
}
