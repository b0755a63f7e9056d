//! Bodies that are larger than the memory of their container.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{LITTLE, alone, resident, world::Server};

/// Bytes each way. A gigabyte takes a while where the host is not optimized.
fn size() -> usize {
    match std::env::var("KUBEWASM_TEST_SIZE").as_deref() {
        Ok("full") => 1 << 30,
        _ => 256 << 20,
    }
}

/// Both ways at once: what is on its way is bounded, and so is memory.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_body_passes_in_little_memory() {
    let _alone = alone().await;
    let size = size();
    let server = Server::new("max-body=0").await;
    let (mut from, mut to) = TcpStream::connect(server.address).await.unwrap().into_split();
    let head =
        format!("POST /echo HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: {size}\r\n\r\n");
    let before = resident();
    let sends = tokio::spawn(async move {
        to.write_all(head.as_bytes()).await.unwrap();
        let block = vec![b'x'; 1 << 20];
        for _ in 0..size / block.len() {
            to.write_all(&block).await.unwrap();
        }
        to
    });
    let (mut got, mut most, mut buffer) = (0, 0, vec![0; 1 << 20]);
    loop {
        match from.read(&mut buffer).await.unwrap() {
            0 => break,
            read => got += read,
        }
        most = most.max(resident());
    }
    drop(sends.await.unwrap());
    assert!(got > size, "{got}");
    assert!(most.saturating_sub(before) < LITTLE, "{} MiB more", (most - before) >> 20);
}
