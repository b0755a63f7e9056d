use super::*;
use crate::{
    signature::testing::{Signer, digest, payload, statement},
    testing::Fixture,
};

#[test]
fn what_is_kept_is_checked_each_time_it_is_read() {
    let fixture = Fixture::new();
    let layout = &fixture.store.inner.layout;
    let (signer, other, image) = (Signer::new(), Signer::new(), digest("image"));
    assert_eq!(read(layout, &image).unwrap(), []);
    add(layout, &image, &[signer.bundle(&statement(&image)), signer.simple(&payload(&image))]).unwrap();

    let kept = read(layout, &image).unwrap();
    assert!(signer_of(&kept, &image, &signer) && !signer_of(&kept, &image, &other));
    assert!(!signer_of(&kept, &digest("other"), &signer));

    // Whoever can write the file can make it say nothing new.
    let text = std::fs::read_to_string(place(layout, &image)).unwrap();
    std::fs::write(place(layout, &image), text.replace("dsse", "esse").replace("critical", "kritisch"))
        .unwrap();
    assert!(!signer_of(&read(layout, &image).unwrap(), &image, &signer));
    std::fs::write(place(layout, &image), "{").unwrap();
    assert_eq!(read(layout, &image).unwrap(), []);

    forget(layout, &image).unwrap();
    forget(layout, &image).unwrap();
    assert!(!place(layout, &image).exists());
}

fn signer_of(kept: &[Evidence], image: &Digest, signer: &Signer) -> bool {
    super::signer(kept, &[*image], &[signer.key()]).is_some()
}

#[test]
fn newer_signatures_are_kept_each_once_and_older_ones_make_room() {
    let fixture = Fixture::new();
    let layout = &fixture.store.inner.layout;
    let image = digest("image");
    let numbered = |number: usize| Evidence::Bundle(number.to_string());
    add(layout, &image, &[numbered(0), numbered(1)]).unwrap();
    add(layout, &image, &[numbered(2), numbered(1)]).unwrap();
    assert_eq!(read(layout, &image).unwrap(), [2, 1, 0].map(numbered));
    let many: Vec<_> = (10..10 + KEPT_LIMIT - 1).map(numbered).collect();
    add(layout, &image, &many).unwrap();
    let kept = read(layout, &image).unwrap();
    assert_eq!((kept.len(), kept.last()), (KEPT_LIMIT, Some(&numbered(2))));
}
